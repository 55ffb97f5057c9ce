"""One decoder layer: forward, and a backward written by hand.

The layer is that of ``spec.py``. The backward makes the gradient of the input and of what is trained: adapters, or the
weights and norms themselves. What the forward keeps for it is the layer's policy:

    none   everything below
    mlp    not gu, P2, Pd: the MLP's inputs are made again (gate_up once more; down's output is needed by nobody)
    full   x only: all but the last projection is made again

kept tensor, elements a token:
    x D, r1 1, P1 R, qkv (H + 2G) E, o H E, log-sum-exp H, Po R, x2 D, r2 1, P2 R, gu 2 F, Pd R
    and with norms on outputs: a D, ra 1, m D, rm 1; with norms on heads: qkv holds them before norm and rotation.

The MLP's half is ``mlp.py``; a layer that makes it again may do so tile by tile. Activations that a group reads lie in
buffers with R spare columns at the right (``weights.py``). One backward for each forward: it overwrites gu.

T tokens, N of them selected (all, but in the last layer only those with a label), D hidden size, H query and G
key/value heads of width E, F MLP width, R adapter columns of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from whet.engine.attention import Documents, attention, attention_backward
from whet.engine.kernels.copy import copy_rows
from whet.engine.kernels.norm import rms_norm
from whet.engine.kernels.rope import rope_
from whet.engine.mlp import MLP_INPUTS, mlp_backward, mlp_forward
from whet.engine.parts import Kept, Layer, norm, norm_backward, norm_into, output_norm_backward, with_columns
from whet.engine.spec import Tables

Policy = Literal["none", "mlp", "full"]
POLICIES: tuple[Policy, ...] = ("none", "mlp", "full")


@dataclass(frozen=True)
class Batch:
    """What all layers of a step share.

    Attributes:
        documents: where documents begin and end among the T tokens.
        tables: the rotation, by the name in ``LayerSpec.rope``.
        tile: rows of the MLP at once, in layers that make it again; None: all.
    """

    documents: Documents
    tables: Tables
    tile: int | None = None


class LayerFunction(torch.autograd.Function):
    """``layer_forward`` and ``layer_backward`` for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: torch.Tensor,
        layer: Layer,
        batch: Batch,
        policy: Policy,
        rows_N: torch.Tensor | None,
        *parameters: torch.nn.Parameter,
    ) -> torch.Tensor:
        trained = layer.gate_up.trained or layer.down.trained  # their gradients would be rounded for each tile
        tile = None if policy == "none" or trained else batch.tile
        y_ND, kept = layer_forward(x_TD, layer, batch, rows_N, tile)
        ctx.layer, ctx.batch, ctx.rows, ctx.tile = layer, batch, rows_N, tile
        ctx.kept = keep(kept, policy)
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            raise RuntimeError("a layer's backward runs once for each forward: its buffers are used up")
        dx_TD, found = layer_backward(
            grads[0], kept, ctx.layer, ctx.batch, ctx.rows, ctx.tile, needs_input=ctx.needs_input_grad[0]
        )
        return dx_TD, None, None, None, None, *found


def keep(kept: Kept, policy: Policy) -> Kept:
    """What stays for the backward under a policy."""
    if policy == "full":
        return {"x": kept["x"]}
    dropped = MLP_INPUTS if policy == "mlp" else ()
    return {name: value for name, value in kept.items() if name not in dropped}


def layer_forward(
    x_TD: torch.Tensor,
    layer: Layer,
    batch: Batch,
    rows_N: torch.Tensor | None = None,
    tile: int | None = None,
) -> tuple[torch.Tensor, Kept]:
    """The layer's output, and everything that its backward can use.

    Args:
        rows_N: the tokens whose output is wanted; None: all.
        tile: rows of the MLP at once, which then keeps no inputs; None: all.

    Returns:
        y_ND and the kept tensors.
    """
    kept: Kept = {"x": x_TD}
    _attend(kept, layer, batch)
    _add_attention(kept, layer, rows_N)
    return mlp_forward(kept, layer, tile), kept


def layer_backward(
    dy_ND: torch.Tensor,
    kept: Kept,
    layer: Layer,
    batch: Batch,
    rows_N: torch.Tensor | None = None,
    tile: int | None = None,
    *,
    needs_input: bool = True,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The gradient of x (None where nobody needs it), and those of ``Layer.parameters`` in their order.

    Args:
        kept: from ``layer_forward``, under any policy; used up.
        rows_N, tile: as in the forward.
    """
    norms = kept["norms"] = layer.norm_sums()
    if "qkv" not in kept:
        _attend(kept, layer, batch)
        _add_attention(kept, layer, rows_N)
    dx2_NDR, mlp_grads = mlp_backward(dy_ND, kept, layer, tile)
    _forget(kept, "x2", "r2", "m", "rm")
    o_grads = _output_backward(dx2_NDR, kept, layer, rows_N)
    dx2_ND = dx2_NDR[:, : layer.spec.hidden]
    dx_TD, qkv_grads = _attention_backward(dx2_ND, kept, layer, batch, rows_N, needs_input)
    return dx_TD, [*qkv_grads, *o_grads, *mlp_grads, *norms.values()]


# --- forward ---


def _attend(kept: Kept, layer: Layer, batch: Batch) -> None:
    """Norm, projections, rotation, attention: sets r1, P1, qkv, o, saved."""
    spec, x_TD = layer.spec, kept["x"]
    n1_TDR, kept["r1"] = norm_into(x_TD, layer.parts.input_norm, layer.qkv.R, spec)
    qkv_TN = layer.qkv.forward(n1_TDR)
    kept["P1"] = n1_TDR[:, spec.hidden :].clone()
    kept["qkv"] = qkv_TN
    q, k, v = _heads(kept, layer, batch, in_place=True)
    kept["o"], kept["saved"] = attention(
        q, k, v, batch.documents, scale=spec.scale, softcap=spec.softcap, window=spec.window
    )


def _heads(kept: Kept, layer: Layer, batch: Batch, in_place: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q_THE, k_TGE (normed where the model does, rotated) and v_TGE.

    Args:
        in_place: rotate kept["qkv"] itself, once; with norms on heads it stays as it is, and copies are rotated.
    """
    spec = layer.spec
    heads_TNE = kept["qkv"].unflatten(1, (spec.heads + 2 * spec.kv_heads, spec.head_dim))
    q, k, v = heads_TNE.split([spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
    if spec.qk_norm:
        both = torch.empty_like(heads_TNE[:, : spec.heads + spec.kv_heads], memory_format=torch.contiguous_format)
        _, kept["rq"] = rms_norm(q, layer.parts.q_norm, spec.eps, spec.norm_offset, out=both[:, : spec.heads])
        _, kept["rk"] = rms_norm(k, layer.parts.k_norm, spec.eps, spec.norm_offset, out=both[:, spec.heads :])
        rope_(both, *batch.tables[spec.rope])
        return both[:, : spec.heads], both[:, spec.heads :], v
    if in_place:
        rope_(heads_TNE[:, : spec.heads + spec.kv_heads], *batch.tables[spec.rope])
    return q, k, v


def _add_attention(kept: Kept, layer: Layer, rows_N: torch.Tensor | None) -> None:
    """Output projection and residual, for the selected tokens: sets Po, x2 (and a, ra)."""
    spec = layer.spec
    x_ND = _selected(kept["x"], rows_N)
    o_NAR = with_columns(_selected(kept["o"].flatten(1), rows_N), layer.o.R)
    if not spec.post_norms:
        kept["x2"] = layer.o.forward(o_NAR, add=x_ND)
    else:
        kept["a"] = layer.o.forward(o_NAR)
        normed_ND, kept["ra"] = norm(kept["a"], layer.parts.post_attention_norm, spec)
        kept["x2"] = normed_ND.add_(x_ND)
    kept["Po"] = o_NAR[:, layer.o.K :].clone()


# --- backward ---


def _output_backward(
    dx2_NDR: torch.Tensor, kept: Kept, layer: Layer, rows_N: torch.Tensor | None
) -> list[torch.Tensor]:
    """Sets do_NA, the gradient of the attention's output for the selected tokens; returns those of o's parameters."""
    da_NDR = dx2_NDR
    if layer.spec.post_norms:
        dx2_ND = dx2_NDR[:, : layer.spec.hidden]
        da_NDR = output_norm_backward(dx2_ND, kept, layer, ("a", "ra"), "post_attention_norm", layer.o)
    kept["do"] = layer.o.dgrad(da_NDR)
    grads = layer.o.wgrad(da_NDR, _selected(kept["o"].flatten(1), rows_N), kept["Po"])
    _forget(kept, "Po", "a", "ra")
    return grads


def _attention_backward(
    dx2_ND: torch.Tensor,
    kept: Kept,
    layer: Layer,
    batch: Batch,
    rows_N: torch.Tensor | None,
    needs_input: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """Gradient of x, and of qkv's parameters."""
    spec, parts, x_TD = layer.spec, layer.parts, kept["x"]
    kept["do"] = _spread(kept["do"], rows_N, len(x_TD))
    dqkv_TNR = _heads_backward(kept, layer, batch)
    n1_TD, _ = norm(x_TD, parts.input_norm, spec)
    dn1_TD = layer.qkv.dgrad(dqkv_TNR)
    grads = layer.qkv.wgrad(dqkv_TNR, n1_TD, kept["P1"])
    if not needs_input and "input_norm" not in layer.norms:
        return None, grads
    residual_TD = _spread(dx2_ND, rows_N, len(x_TD))
    dx_TD = norm_backward(dn1_TD, x_TD, kept["r1"], kept, layer, "input_norm", residual=residual_TD)
    return dx_TD, grads


def _heads_backward(kept: Kept, layer: Layer, batch: Batch) -> torch.Tensor:
    """From do to the gradient of q, k and v as they were projected, with the spare columns of qkv. What the attention
    was computed from is forgotten on the way."""
    spec = layer.spec
    q, k, v = _heads(kept, layer, batch, in_place=False)
    grads = attention_backward(
        kept["do"].unflatten(1, (spec.heads, spec.head_dim)),
        q,
        k,
        v,
        kept["o"],
        kept["saved"],
        batch.documents,
        scale=spec.scale,
        softcap=spec.softcap,
        window=spec.window,
    )
    del q, k, v
    raw_TN = kept.pop("qkv") if spec.qk_norm else None
    _forget(kept, "do", "o", "saved", "qkv")
    x_TD = kept["x"]
    dqkv_TNR = x_TD.new_empty(len(x_TD), layer.qkv.N + layer.qkv.R)
    out_TN = dqkv_TNR[:, : layer.qkv.N]
    out = out_TN.unflatten(1, (spec.heads + 2 * spec.kv_heads, spec.head_dim))
    dq, dk, _ = out.split([spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
    places = out_TN.split([n * spec.head_dim for n in (spec.heads, spec.kv_heads, spec.kv_heads)], dim=1)
    copy_rows(grads[2].flatten(1), places[2])
    cos, sin = batch.tables[spec.rope]
    if raw_TN is None:
        copy_rows(grads[0].flatten(1), places[0])
        copy_rows(grads[1].flatten(1), places[1])
        rope_(out[:, : spec.heads + spec.kv_heads], cos, sin, inverse=True)
        return dqkv_TNR
    raw = raw_TN.unflatten(1, (spec.heads + 2 * spec.kv_heads, spec.head_dim))
    raw_q, raw_k, _ = raw.split([spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
    for grad, value, name, rstd, into in (
        (grads[0], raw_q, "q_norm", kept["rq"], dq),
        (grads[1], raw_k, "k_norm", kept["rk"], dk),
    ):
        rotated = grad.contiguous()
        rope_(rotated, cos, sin, inverse=True)
        norm_backward(rotated, value, rstd, kept, layer, name, out=into)
    return dqkv_TNR


# --- small pieces ---


def _forget(kept: Kept, *names: str) -> None:
    """Free what nobody reads any more, before more is made."""
    for name in names:
        kept.pop(name, None)


def _selected(x_TK: torch.Tensor, rows_N: torch.Tensor | None) -> torch.Tensor:
    return x_TK if rows_N is None else x_TK.index_select(0, rows_N)


def _spread(x_ND: torch.Tensor, rows_N: torch.Tensor | None, size: int) -> torch.Tensor:
    """Rows of selected tokens at their places among all; zero elsewhere."""
    if rows_N is None:
        return x_ND
    return x_ND.new_zeros(size, x_ND.shape[1]).index_copy_(0, rows_N, x_ND)
