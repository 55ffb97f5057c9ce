"""The MLP half of a decoder layer: forward, and the backward written by hand; all rows at once, or tile by tile.

Every row is computed by itself, so that a long batch can go through in tiles: then gate, up and their gradients exist
for one tile at a time. A tile keeps nothing, so that tiles are for layers that make the MLP again in their backward.
The adapters' gradients are added up over the tiles, in their order: bit-identical results need equal tiles.

N rows, D hidden size, F MLP width, R adapter columns of a group.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from whet.engine.kernels.dispatch import wide
from whet.engine.kernels.glu import glu, glu_backward_
from whet.engine.parts import Kept, Layer, norm, norm_backward, norm_into, output_norm_backward

MLP_INPUTS = ("gu", "P2", "Pd")


def mlp_forward(kept: Kept, layer: Layer, tile: int | None = None) -> torch.Tensor:
    """y_ND = x2 + MLP(norm(x2)).

    Args:
        kept: holds x2; gains r2 (and m, rm where outputs are normed), and without tiles gu, P2, Pd.
        tile: rows at once; None: all.
    """
    x2_ND = kept["x2"]
    if tile is None or tile >= len(x2_ND):
        return _forward(kept, layer)
    y_ND = torch.empty_like(x2_ND)
    names = ("r2", "m", "rm") if layer.spec.post_norms else ("r2",)
    kept |= {name: y_ND.new_empty(len(y_ND), dtype=wide(y_ND.dtype)) for name in names if name != "m"}
    if layer.spec.post_norms:
        kept["m"] = torch.empty_like(x2_ND)
    for rows in _tiles(len(x2_ND), tile):
        _forward_tile(kept, layer, names, rows, y_ND)
    return y_ND


def mlp_backward(
    dy_ND: torch.Tensor, kept: Kept, layer: Layer, tile: int | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of x2, with the spare columns of o, and of gate_up's and down's parameters.

    Args:
        kept: holds x2 and norms, and whatever the forward left; its gu, P2 and Pd are used up.
        tile: as in the forward. Gradients of trained weights would be rounded for each tile.
    """
    if tile is None or tile >= len(dy_ND):
        return _backward(dy_ND, kept, layer)
    dx2_NDR = _gradient(dy_ND, layer)
    total: list[torch.Tensor] = []
    for rows in _tiles(len(dy_ND), tile):
        piece: Kept = {name: kept[name][rows] for name in ("x2", "m", "rm") if name in kept}
        piece["norms"] = kept["norms"]
        _, grads = _backward(dy_ND[rows], piece, layer, dx2_NDR[rows])
        total = [whole.add_(part) for whole, part in zip(total, grads, strict=True)] if total else grads
        del piece, grads  # before the next tile's are made
    return dx2_NDR, total


def _tiles(count: int, tile: int) -> Iterator[slice]:
    for start in range(0, count, tile):
        yield slice(start, min(start + tile, count))


def _forward_tile(kept: Kept, layer: Layer, names: tuple[str, ...], rows: slice, y_ND: torch.Tensor) -> None:
    piece: Kept = {"x2": kept["x2"][rows]}
    if "m" in kept:
        piece["m"] = kept["m"][rows]
    _input(piece, layer)
    h_NFR = _activated(piece, layer)
    _output(piece, layer, h_NFR, y_ND[rows])
    for name in names:
        if name != "m":
            kept[name][rows] = piece[name]


def _forward(kept: Kept, layer: Layer) -> torch.Tensor:
    _input(kept, layer)
    h_NFR = _activated(kept, layer)
    y_ND = _output(kept, layer, h_NFR)
    kept["Pd"] = h_NFR[:, layer.spec.mlp :].clone()
    return y_ND


def _input(kept: Kept, layer: Layer) -> None:
    """Norm, gate and up: sets r2, P2, gu."""
    n2_NDR, kept["r2"] = norm_into(kept["x2"], layer.parts.pre_mlp_norm, layer.gate_up.R, layer.spec)
    _gate_up(kept, layer, n2_NDR)


def _gate_up(kept: Kept, layer: Layer, n2_NDR: torch.Tensor) -> None:
    """gu has spare columns: the backward puts the gradient in its place and reads it as a group's input."""
    spec = layer.spec
    kept["gu"] = n2_NDR.new_empty(len(n2_NDR), 2 * spec.mlp + layer.gate_up.R)
    layer.gate_up.forward(n2_NDR, out=kept["gu"][:, : 2 * spec.mlp])
    kept["P2"] = n2_NDR[:, spec.hidden :].clone()


def _activated(kept: Kept, layer: Layer) -> torch.Tensor:
    """h_NF = activation(gate) * up, with the spare columns of the down projection."""
    spec = layer.spec
    h_NFR = kept["gu"].new_empty(len(kept["gu"]), spec.mlp + layer.down.R)
    glu(kept["gu"][:, : 2 * spec.mlp], h_NFR[:, : spec.mlp], spec.activation)
    return h_NFR


def _output(kept: Kept, layer: Layer, h_NFR: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Down projection and residual (sets m, rm)."""
    if not layer.spec.post_norms:
        return layer.down.forward(h_NFR, add=kept["x2"], out=out)
    kept["m"] = layer.down.forward(h_NFR, out=kept.get("m"))
    normed_ND, kept["rm"] = norm(kept["m"], layer.parts.post_mlp_norm, layer.spec, out)
    return normed_ND.add_(kept["x2"])


def _gradient(dy_ND: torch.Tensor, layer: Layer) -> torch.Tensor:
    """Room for the gradient of x2. It is that of o's output too: spare columns save a copy."""
    return dy_ND.new_empty(len(dy_ND), layer.spec.hidden + layer.o.R)


def _backward(
    dy_ND: torch.Tensor, kept: Kept, layer: Layer, out: torch.Tensor | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of x2 in the first columns (of ``out`` where it is given), and the parameters'."""
    spec, parts = layer.spec, layer.parts
    n2_NDR, kept["r2"] = norm_into(kept["x2"], parts.pre_mlp_norm, layer.gate_up.R, spec)
    if "gu" not in kept:
        _gate_up(kept, layer, n2_NDR)
    if spec.post_norms and "m" not in kept:
        _output(kept, layer, _activated(kept, layer))
    dm_NDR = output_norm_backward(dy_ND, kept, layer, ("m", "rm"), "post_mlp_norm", layer.down)
    dh_NF = layer.down.dgrad(dm_NDR)
    gu_NFR = kept["gu"]
    glu_backward_(dh_NF, gu_NFR[:, : 2 * spec.mlp], spec.activation)  # dh is now h, gu the gradient of gate and up
    pd_NR = kept["Pd"] if "Pd" in kept else layer.down.project(dh_NF, dh_NF.new_empty(len(dh_NF), layer.down.R))
    down_grads = layer.down.wgrad(dm_NDR, dh_NF, pd_NR)
    del dh_NF
    dn2_ND = layer.gate_up.dgrad(gu_NFR)
    gate_up_grads = layer.gate_up.wgrad(gu_NFR, n2_NDR[:, : spec.hidden], kept["P2"])
    for name in MLP_INPUTS:
        kept.pop(name, None)
    dx2_NDR = _gradient(dy_ND, layer) if out is None else out
    dx2_ND = dx2_NDR[:, : spec.hidden]
    norm_backward(dn2_ND, kept["x2"], kept["r2"], kept, layer, "pre_mlp_norm", residual=dy_ND, out=dx2_ND)
    return dx2_NDR, [*gate_up_grads, *down_grads]
