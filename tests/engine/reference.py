"""What the engine must compute, written plainly: one layer and the whole loss in float64, gradients by autograd.

Nothing here is shared with the engine but the specification, PEFT's reader and the plain dequantiser. The rotation's
tables come from the model's own module (float32). See ``whet/engine/spec.py`` for the layer in six lines.

T tokens of all documents, one after the other; D hidden size; H query heads; G key/value heads; E head size; C half of
the rotated part; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from families import dense_weight

from whet.engine.lora import base_of, lora_of
from whet.engine.spec import LayerParts, LayerSpec, ModelSpec, Tables

IGNORE = -100


def reference_layer(
    spec: LayerSpec, parts: LayerParts, x_TD: torch.Tensor, rotary: Tables, lengths: Sequence[int]
) -> torch.Tensor:
    """y_TD of one layer, in float64; differentiable in x and in the adapters.

    Args:
        rotary: what ``ModelSpec.rotary`` gives for these tokens.
        lengths: of the documents; they add up to T.
    """
    x_TD = x_TD.double()
    n_TD = reference_norm(x_TD, parts.input_norm, spec.eps, spec.norm_offset)
    a_TD = _attention(spec, parts, _project(parts.groups["qkv"], n_TD), rotary[spec.rope], lengths)
    a_TD = _project(parts.groups["o"], a_TD)
    if parts.post_attention_norm is not None:
        a_TD = reference_norm(a_TD, parts.post_attention_norm, spec.eps, spec.norm_offset)
    x2_TD = x_TD + a_TD
    n_TD = reference_norm(x2_TD, parts.pre_mlp_norm, spec.eps, spec.norm_offset)
    gate_TF, up_TF = _project(parts.groups["gate_up"], n_TD).chunk(2, -1)
    gate_TF = F.silu(gate_TF) if spec.activation == "silu" else F.gelu(gate_TF, approximate="tanh")
    m_TD = _project(parts.groups["down"], gate_TF * up_TF)
    if parts.post_mlp_norm is not None:
        m_TD = reference_norm(m_TD, parts.post_mlp_norm, spec.eps, spec.norm_offset)
    return x2_TD + m_TD


def reference_hidden(spec: ModelSpec, ids_1T: torch.Tensor, positions_1T: torch.Tensor) -> torch.Tensor:
    """Last hidden states (T, D), norm included; documents start where a position is 0."""
    x_TD = F.embedding(ids_1T[0], spec.embed.weight).double() * spec.embed_scale
    rotary, lengths = spec.rotary(positions_1T, torch.float32), lengths_of(positions_1T)
    for layer, parts in spec.layers:
        x_TD = reference_layer(layer, parts, x_TD, rotary, lengths)
    return reference_norm(x_TD, spec.final_norm, spec.final_norm_eps, spec.final_norm_offset)


def reference_logits(spec: ModelSpec, ids_1T: torch.Tensor, positions_1T: torch.Tensor) -> torch.Tensor:
    """Logits (T, V), capped where the model caps them."""
    logits_TV = _project([spec.head], reference_hidden(spec, ids_1T, positions_1T))
    cap = spec.logit_softcap
    return logits_TV if cap is None else cap * torch.tanh(logits_TV / cap)


def reference_loss(
    spec: ModelSpec, ids_1T: torch.Tensor, positions_1T: torch.Tensor, labels_1T: torch.Tensor
) -> torch.Tensor:
    """Sum of the cross-entropy in nats: the label at t is predicted at t - 1; IGNORE has no loss."""
    logits_TV = reference_logits(spec, ids_1T, positions_1T)
    return F.cross_entropy(logits_TV[:-1], labels_1T[0, 1:], ignore_index=IGNORE, reduction="sum")


def lengths_of(positions_1T: torch.Tensor) -> list[int]:
    """Lengths of the documents of one row."""
    starts = [t for t, position in enumerate(positions_1T[0].tolist()) if position == 0]
    return [end - start for start, end in zip(starts, [*starts[1:], positions_1T.shape[1]], strict=True)]


def reference_norm(x: torch.Tensor, weight_C: torch.Tensor, eps: float, offset: int) -> torch.Tensor:
    """x / rms(x) * (weight + offset) over the last dimension."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (weight_C.double() + offset)


def _project(modules: list[torch.nn.Module], x_TK: torch.Tensor) -> torch.Tensor:
    """The outputs of a group side by side, adapters included."""
    outputs = []
    for module in modules:
        base, lora = base_of(module), lora_of(module)
        y_TN = F.linear(x_TK, dense_weight(base), None if base.bias is None else base.bias.double())
        if lora is not None:
            y_TN = y_TN + lora.scale * (x_TK @ lora.A.double().T) @ lora.B.double().T
        outputs.append(y_TN)
    return torch.cat(outputs, -1)


def _attention(
    spec: LayerSpec,
    parts: LayerParts,
    qkv_TN: torch.Tensor,
    table: tuple[torch.Tensor, torch.Tensor],
    lengths: Sequence[int],
) -> torch.Tensor:
    """Each document by itself, all of its scores at once. Returns (T, heads * head_dim)."""
    heads_TNE = qkv_TN.unflatten(-1, (-1, spec.head_dim))
    q_THE, k_TGE, v_TGE = heads_TNE.split([spec.heads, spec.kv_heads, spec.kv_heads], 1)
    if parts.q_norm is not None and parts.k_norm is not None:
        q_THE = reference_norm(q_THE, parts.q_norm, spec.eps, spec.norm_offset)
        k_TGE = reference_norm(k_TGE, parts.k_norm, spec.eps, spec.norm_offset)
    q_THE, k_TGE = _rotated(q_THE, table), _rotated(k_TGE, table)
    repeats = spec.heads // spec.kv_heads
    documents = zip(*(part.split(list(lengths)) for part in (q_THE, k_TGE, v_TGE)), strict=True)
    found = []
    for q_SHE, k_SGE, v_SGE in documents:
        k_SHE, v_SHE = k_SGE.repeat_interleave(repeats, 1), v_SGE.repeat_interleave(repeats, 1)
        scores_HSS = torch.einsum("ihe,jhe->hij", q_SHE, k_SHE) * spec.scale
        if spec.softcap is not None:
            scores_HSS = spec.softcap * torch.tanh(scores_HSS / spec.softcap)
        seen_SS = _seen(len(q_SHE), spec.window)
        weights_HSS = scores_HSS.masked_fill(~seen_SS, float("-inf")).softmax(-1)
        found.append(torch.einsum("hij,jhe->ihe", weights_HSS, v_SHE).flatten(1))
    return torch.cat(found)


def _rotated(t_TNE: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    cos_T1C, sin_T1C = table[0].double()[:, None], table[1].double()[:, None]
    half = cos_T1C.shape[-1]
    a_TNC, b_TNC, rest = t_TNE[..., :half], t_TNE[..., half : 2 * half], t_TNE[..., 2 * half :]
    return torch.cat([a_TNC * cos_T1C - b_TNC * sin_T1C, b_TNC * cos_T1C + a_TNC * sin_T1C, rest], -1)


def _seen(size: int, window: int | None) -> torch.Tensor:
    """seen[i, j]: token i sees token j: itself and what came before, at most ``window`` tokens in all."""
    i_S1, j_1S = torch.arange(size)[:, None], torch.arange(size)[None]
    seen_SS = j_1S <= i_S1
    return seen_SS if window is None else seen_SS & (i_S1 - j_1S < window)
