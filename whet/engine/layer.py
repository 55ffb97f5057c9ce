"""One decoder layer: forward, and a backward written by hand.

The layer is that of ``spec.py``. Base weights and norms are frozen, so the backward makes the gradient of the input and
of the adapters only. What the forward keeps for it is the layer's policy:

    none   everything below
    mlp    not gu, P2, Pd: the MLP's inputs are made again (gate_up once more; down's output is needed by nobody)
    full   x only: all but the last projection is made again

kept tensor, elements a token:
    x D, r1 1, P1 R, qkv (H + 2G) E, o H E, log-sum-exp H, Po R, x2 D, r2 1, P2 R, gu 2 F, Pd R
    and with norms on outputs: a D, ra 1, m D, rm 1; with norms on heads: qkv holds them before norm and rotation.

Activations that a group reads lie in buffers with R spare columns at the right (``weights.py``). One backward for each
forward: it overwrites gu.

T tokens, N of them selected (all, but in the last layer only those with a label), D hidden size, H query and G
key/value heads of width E, F MLP width, R adapter columns of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from whet.engine.attention import Documents, attention, attention_backward
from whet.engine.kernels.copy import copy_rows
from whet.engine.kernels.glu import glu, glu_backward_
from whet.engine.kernels.norm import rms_norm, rms_norm_backward
from whet.engine.kernels.rope import rope_
from whet.engine.spec import LayerParts, LayerSpec, Tables
from whet.engine.weights import Group

Policy = Literal["none", "mlp", "full"]
POLICIES: tuple[Policy, ...] = ("none", "mlp", "full")
MLP_INPUTS = ("gu", "P2", "Pd")
Kept = dict[str, Any]


@dataclass
class Layer:
    """A layer's numbers, norms and weight groups."""

    spec: LayerSpec
    parts: LayerParts
    qkv: Group
    o: Group
    gate_up: Group
    down: Group

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """A and B of all adapters, in the order of ``layer_backward``'s gradients."""
        return [parameter for group in self.groups for parameter in group.parameters]


@dataclass(frozen=True)
class Batch:
    """What all layers of a step share.

    Attributes:
        documents: where documents begin and end among the T tokens.
        tables: the rotation, by the name in ``LayerSpec.rope``.
    """

    documents: Documents
    tables: Tables


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
        y_ND, kept = layer_forward(x_TD, layer, batch, rows_N)
        ctx.layer, ctx.batch, ctx.rows = layer, batch, rows_N
        ctx.kept = keep(kept, policy)
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            raise RuntimeError("a layer's backward runs once for each forward: its buffers are used up")
        dx_TD, found = layer_backward(
            grads[0], kept, ctx.layer, ctx.batch, ctx.rows, needs_input=ctx.needs_input_grad[0]
        )
        return dx_TD, None, None, None, None, *found


def keep(kept: Kept, policy: Policy) -> Kept:
    """What stays for the backward under a policy."""
    if policy == "full":
        return {"x": kept["x"]}
    dropped = MLP_INPUTS if policy == "mlp" else ()
    return {name: value for name, value in kept.items() if name not in dropped}


def layer_forward(
    x_TD: torch.Tensor, layer: Layer, batch: Batch, rows_N: torch.Tensor | None = None
) -> tuple[torch.Tensor, Kept]:
    """The layer's output, and everything that its backward can use.

    Args:
        rows_N: the tokens whose output is wanted; None: all.

    Returns:
        y_ND and the kept tensors.
    """
    kept: Kept = {"x": x_TD}
    _attend(kept, layer, batch)
    _add_attention(kept, layer, rows_N)
    _mlp_input(kept, layer)
    h_NFR = _activated(kept, layer)
    y_ND = _mlp_output(kept, layer, h_NFR)
    kept["Pd"] = h_NFR[:, layer.spec.mlp :].clone()
    return y_ND, kept


def layer_backward(
    dy_ND: torch.Tensor,
    kept: Kept,
    layer: Layer,
    batch: Batch,
    rows_N: torch.Tensor | None = None,
    *,
    needs_input: bool = True,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The gradient of x (None where nobody needs it), and of the adapters in the order of ``Layer.parameters``.

    Args:
        kept: from ``layer_forward``, under any policy; used up.
    """
    if "qkv" not in kept:
        _attend(kept, layer, batch)
        _add_attention(kept, layer, rows_N)
    dx2_NDR, mlp_grads = _mlp_backward(dy_ND, kept, layer)
    do_NA, o_grads = _output_backward(dx2_NDR, kept, layer, rows_N)
    dx2_ND = dx2_NDR[:, : layer.spec.hidden]
    dx_TD, qkv_grads = _attention_backward(do_NA, dx2_ND, kept, layer, batch, rows_N, needs_input)
    return dx_TD, [*qkv_grads, *o_grads, *mlp_grads]


# --- forward ---


def _attend(kept: Kept, layer: Layer, batch: Batch) -> None:
    """Norm, projections, rotation, attention: sets r1, P1, qkv, o, saved."""
    spec, x_TD = layer.spec, kept["x"]
    n1_TDR, kept["r1"] = _norm_into(x_TD, layer.parts.input_norm, layer.qkv.R, spec)
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
    o_NAR = _with_columns(_selected(kept["o"].flatten(1), rows_N), layer.o.R)
    if not spec.post_norms:
        kept["x2"] = layer.o.forward(o_NAR, add=x_ND)
    else:
        kept["a"] = layer.o.forward(o_NAR)
        normed_ND, kept["ra"] = _norm(kept["a"], layer.parts.post_attention_norm, spec)
        kept["x2"] = normed_ND.add_(x_ND)
    kept["Po"] = o_NAR[:, layer.o.K :].clone()


def _mlp_input(kept: Kept, layer: Layer) -> None:
    """Norm, gate and up: sets r2, P2, gu."""
    n2_NDR, kept["r2"] = _norm_into(kept["x2"], layer.parts.pre_mlp_norm, layer.gate_up.R, layer.spec)
    _gate_up(kept, layer, n2_NDR)


def _activated(kept: Kept, layer: Layer) -> torch.Tensor:
    """h_NF = activation(gate) * up, with the spare columns of the down projection."""
    spec = layer.spec
    h_NFR = kept["gu"].new_empty(len(kept["gu"]), spec.mlp + layer.down.R)
    glu(kept["gu"][:, : 2 * spec.mlp], h_NFR[:, : spec.mlp], spec.activation)
    return h_NFR


def _mlp_output(kept: Kept, layer: Layer, h_NFR: torch.Tensor) -> torch.Tensor:
    """Down projection and residual (sets m, rm)."""
    if not layer.spec.post_norms:
        return layer.down.forward(h_NFR, add=kept["x2"])
    kept["m"] = layer.down.forward(h_NFR)
    normed_ND, kept["rm"] = _norm(kept["m"], layer.parts.post_mlp_norm, layer.spec)
    return normed_ND.add_(kept["x2"])


def _gate_up(kept: Kept, layer: Layer, n2_NDR: torch.Tensor) -> None:
    """gu has spare columns: the backward puts the gradient in its place and reads it as a group's input."""
    spec = layer.spec
    kept["gu"] = n2_NDR.new_empty(len(n2_NDR), 2 * spec.mlp + layer.gate_up.R)
    layer.gate_up.forward(n2_NDR, out=kept["gu"][:, : 2 * spec.mlp])
    kept["P2"] = n2_NDR[:, spec.hidden :].clone()


# --- backward ---


def _mlp_backward(dy_ND: torch.Tensor, kept: Kept, layer: Layer) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of x2, with the spare columns of o, and of gate_up's and down's adapters."""
    spec, parts = layer.spec, layer.parts
    n2_NDR, kept["r2"] = _norm_into(kept["x2"], parts.pre_mlp_norm, layer.gate_up.R, spec)
    if "gu" not in kept:
        _gate_up(kept, layer, n2_NDR)
    if spec.post_norms and "m" not in kept:
        _mlp_output(kept, layer, _activated(kept, layer))
    dm_NDR = _output_norm_backward(dy_ND, kept, layer, ("m", "rm"), parts.post_mlp_norm, layer.down)
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
    dx2_NDR = dy_ND.new_empty(len(dy_ND), spec.hidden + layer.o.R)  # it is o's gradient too: spare columns save a copy
    dx2_ND = dx2_NDR[:, : spec.hidden]
    rms_norm_backward(dn2_ND, kept["x2"], parts.pre_mlp_norm, kept["r2"], spec.norm_offset, residual=dy_ND, out=dx2_ND)
    return dx2_NDR, [*gate_up_grads, *down_grads]


def _output_backward(
    dx2_NDR: torch.Tensor, kept: Kept, layer: Layer, rows_N: torch.Tensor | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of the attention's output for the selected tokens, and of o's adapters."""
    da_NDR = dx2_NDR
    if layer.spec.post_norms:
        dx2_ND = dx2_NDR[:, : layer.spec.hidden]
        da_NDR = _output_norm_backward(dx2_ND, kept, layer, ("a", "ra"), layer.parts.post_attention_norm, layer.o)
    do_NA = layer.o.dgrad(da_NDR)
    return do_NA, layer.o.wgrad(da_NDR, _selected(kept["o"].flatten(1), rows_N), kept["Po"])


def _output_norm_backward(
    dy_ND: torch.Tensor,
    kept: Kept,
    layer: Layer,
    names: tuple[str, str],
    weight_D: torch.Tensor | None,
    group: Group,
) -> torch.Tensor:
    """The gradient at a group's output, with the group's spare columns: through the norm on it, or as it is."""
    if not layer.spec.post_norms:
        return _with_columns(dy_ND, group.R)
    out_NDR = dy_ND.new_empty(len(dy_ND), dy_ND.shape[1] + group.R)
    value, rstd = (kept[name] for name in names)
    out_ND = out_NDR[:, : dy_ND.shape[1]]
    rms_norm_backward(dy_ND, value, weight_D, rstd, layer.spec.norm_offset, out=out_ND)
    return out_NDR


def _attention_backward(
    do_NA: torch.Tensor,
    dx2_ND: torch.Tensor,
    kept: Kept,
    layer: Layer,
    batch: Batch,
    rows_N: torch.Tensor | None,
    needs_input: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """Gradient of x, and of qkv's adapters."""
    spec, parts, x_TD = layer.spec, layer.parts, kept["x"]
    dqkv_TNR = x_TD.new_empty(len(x_TD), layer.qkv.N + layer.qkv.R)
    _heads_backward(_spread(do_NA, rows_N, len(x_TD)), kept, layer, batch, dqkv_TNR[:, : layer.qkv.N])
    n1_TD, _ = _norm(x_TD, parts.input_norm, spec)
    dn1_TD = layer.qkv.dgrad(dqkv_TNR)
    grads = layer.qkv.wgrad(dqkv_TNR, n1_TD, kept["P1"])
    if not needs_input:
        return None, grads
    residual_TD = _spread(dx2_ND, rows_N, len(x_TD))
    dx_TD = rms_norm_backward(dn1_TD, x_TD, parts.input_norm, kept["r1"], spec.norm_offset, residual=residual_TD)
    return dx_TD, grads


def _heads_backward(do_TA: torch.Tensor, kept: Kept, layer: Layer, batch: Batch, out_TN: torch.Tensor) -> None:
    """From the gradient of the attention's output to that of q, k and v as they were projected."""
    spec, parts = layer.spec, layer.parts
    q, k, v = _heads(kept, layer, batch, in_place=False)
    do_THE = do_TA.unflatten(1, (spec.heads, spec.head_dim))
    grads = attention_backward(
        do_THE,
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
    out = out_TN.unflatten(1, (spec.heads + 2 * spec.kv_heads, spec.head_dim))
    dq, dk, _ = out.split([spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
    places = out_TN.split([n * spec.head_dim for n in (spec.heads, spec.kv_heads, spec.kv_heads)], dim=1)
    copy_rows(grads[2].flatten(1), places[2])
    cos, sin = batch.tables[spec.rope]
    if not spec.qk_norm:
        copy_rows(grads[0].flatten(1), places[0])
        copy_rows(grads[1].flatten(1), places[1])
        rope_(out[:, : spec.heads + spec.kv_heads], cos, sin, inverse=True)
        return
    raw = kept["qkv"].unflatten(1, (spec.heads + 2 * spec.kv_heads, spec.head_dim))
    raw_q, raw_k, _ = raw.split([spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
    for grad, value, weight, rstd, into in (
        (grads[0], raw_q, parts.q_norm, kept["rq"], dq),
        (grads[1], raw_k, parts.k_norm, kept["rk"], dk),
    ):
        rotated = grad.contiguous()
        rope_(rotated, cos, sin, inverse=True)
        rms_norm_backward(rotated, value, weight, rstd, spec.norm_offset, out=into)


# --- small pieces ---


def _norm(x: torch.Tensor, weight: torch.Tensor | None, spec: LayerSpec) -> tuple[torch.Tensor, torch.Tensor]:
    assert weight is not None
    normed, rstd = rms_norm(x, weight, spec.eps, spec.norm_offset)
    return normed, rstd


def _norm_into(
    x_ND: torch.Tensor, weight_D: torch.Tensor, columns: int, spec: LayerSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normed rows with spare columns at the right, and their reciprocal root mean squares."""
    out = x_ND.new_empty(len(x_ND), spec.hidden + columns)
    _, rstd = rms_norm(x_ND, weight_D, spec.eps, spec.norm_offset, out=out[:, : spec.hidden])
    return out, rstd


def _with_columns(x_NK: torch.Tensor, columns: int) -> torch.Tensor:
    """A copy with spare columns at the right."""
    out = x_NK.new_empty(len(x_NK), x_NK.shape[1] + columns)
    copy_rows(x_NK, out[:, : x_NK.shape[1]])
    return out


def _selected(x_TK: torch.Tensor, rows_N: torch.Tensor | None) -> torch.Tensor:
    return x_TK if rows_N is None else x_TK.index_select(0, rows_N)


def _spread(x_ND: torch.Tensor, rows_N: torch.Tensor | None, size: int) -> torch.Tensor:
    """Rows of selected tokens at their places among all; zero elsewhere."""
    if rows_N is None:
        return x_ND
    return x_ND.new_zeros(size, x_ND.shape[1]).index_copy_(0, rows_N, x_ND)
