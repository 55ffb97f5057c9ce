"""Attention of one new token per sequence over a cache of keys and values, split into chunks of fixed size.

Each chunk of keys gives a maximum, a sum and an output of its own; they are joined in the chunks' order (the scheme of
Flash-Decoding, Dao et al. 2023). Chunks begin at fixed positions: what a sequence gets depends neither on the other
sequences of the batch nor on the size of the cache.

S slots (sequences), H query heads, G key/value heads, g = H / G, E head size, C pairs of the rotation, N chunks of L
positions. The cache of a layer is k_NSGLE and v_NSGLE. Softcap and window are those of ``LayerSpec``.
"""

from __future__ import annotations

import torch

from whet.engine.documents import Scores
from whet.engine.kernels.dispatch import uses_triton, wide
from whet.engine.kernels.rope import rope_


def place(
    qkv_SNE: torch.Tensor,
    k_NSGLE: torch.Tensor,
    v_NSGLE: torch.Tensor,
    cos_TC: torch.Tensor,
    sin_TC: torch.Tensor,
    positions_S: torch.Tensor,
) -> torch.Tensor:
    """Rotates queries in place and keys on their way into the cache, and puts the values there.

    Args:
        qkv_SNE: H + 2 G heads of each slot, queries first; contiguous.
        cos_TC, sin_TC: a row for every position.
        positions_S: where each slot's new token stands; int64, inside the cache.

    Returns:
        q_SHE: a view.
    """
    groups = k_NSGLE.shape[2]
    heads = qkv_SNE.shape[1] - 2 * groups
    if uses_triton(qkv_SNE):
        from whet.engine.kernels import decode_attention_triton

        decode_attention_triton.place(qkv_SNE, k_NSGLE, v_NSGLE, cos_TC, sin_TC, positions_S)
    else:
        place_plain(qkv_SNE, k_NSGLE, v_NSGLE, cos_TC, sin_TC, positions_S)
    return qkv_SNE[:, :heads]


def place_plain(
    qkv_SNE: torch.Tensor,
    k_NSGLE: torch.Tensor,
    v_NSGLE: torch.Tensor,
    cos_TC: torch.Tensor,
    sin_TC: torch.Tensor,
    positions_S: torch.Tensor,
) -> None:
    """The plain twin; it rotates the keys in ``qkv_SNE`` as well."""
    groups, size = k_NSGLE.shape[2], k_NSGLE.shape[3]
    heads = qkv_SNE.shape[1] - 2 * groups
    rope_(qkv_SNE[:, : heads + groups], cos_TC[positions_S], sin_TC[positions_S])
    slots_S = torch.arange(len(qkv_SNE), device=qkv_SNE.device)
    chunk_S, offset_S = positions_S // size, positions_S % size
    k_NSGLE[chunk_S, slots_S, :, offset_S] = qkv_SNE[:, heads : heads + groups]
    v_NSGLE[chunk_S, slots_S, :, offset_S] = qkv_SNE[:, heads + groups :]


def attend(
    q_SHE: torch.Tensor,
    k_NSGLE: torch.Tensor,
    v_NSGLE: torch.Tensor,
    positions_S: torch.Tensor,
    scores: Scores,
) -> torch.Tensor:
    """Each slot's query over the keys at 0 to its position (or the last ``window`` of them).

    Args:
        q_SHE: heads of a slot side by side.
        k_NSGLE, v_NSGLE: finite everywhere on a CPU; chunks after the last one in use may be left away.

    Returns:
        o (S, H, E), contiguous.
    """
    if uses_triton(q_SHE):
        from whet.engine.kernels import decode_attention_triton

        return decode_attention_triton.attend(q_SHE, k_NSGLE, v_NSGLE, positions_S, scores)
    return attend_plain(q_SHE, k_NSGLE, v_NSGLE, positions_S, scores)


def attend_plain(
    q_SHE: torch.Tensor,
    k_NSGLE: torch.Tensor,
    v_NSGLE: torch.Tensor,
    positions_S: torch.Tensor,
    scores: Scores,
) -> torch.Tensor:
    """The plain twin."""
    chunks, slots, groups, size, width = k_NSGLE.shape
    dtype = wide(q_SHE.dtype)
    q_NSGgE = q_SHE.to(dtype).unflatten(1, (groups, -1)).expand(chunks, -1, -1, -1, -1)
    each = q_NSGgE.shape[3]
    q_MgE = q_NSGgE.reshape(-1, each, width)
    k_MLE, v_MLE = (t.reshape(-1, size, width).to(dtype) for t in (k_NSGLE, v_NSGLE))
    s_MgL = torch.bmm(q_MgE, k_MLE.transpose(1, 2)).mul_(scores.scale)
    if scores.softcap is not None:
        s_MgL = s_MgL.div_(scores.softcap).tanh_().mul_(scores.softcap)
    s_NSGgL = s_MgL.view(chunks, slots, groups, each, size)
    hidden_NSL = _hidden(positions_S, chunks, size, scores.window)
    s_NSGgL.masked_fill_(hidden_NSL[:, :, None, None], float("-inf"))
    s_NSGgL = s_NSGgL.sub_(s_NSGgL.amax((0, 4), keepdim=True)).exp_()
    o_NSGgE = torch.bmm(s_NSGgL.view(-1, each, size), v_MLE).view(chunks, slots, groups, each, width)
    sum_NSGg = s_NSGgL.sum(-1)
    o_SGgE, sum_SGg = o_NSGgE[0], sum_NSGg[0]
    for chunk in range(1, chunks):  # in this order: a chunk without keys adds exactly nothing
        o_SGgE += o_NSGgE[chunk]
        sum_SGg += sum_NSGg[chunk]
    return (o_SGgE / sum_SGg[..., None]).flatten(1, 2).to(q_SHE.dtype)


def _hidden(positions_S: torch.Tensor, chunks: int, size: int, window: int | None) -> torch.Tensor:
    """(N, S, L): the keys that a slot does not see."""
    key_N1L = torch.arange(chunks * size, device=positions_S.device).view(chunks, 1, size)
    last_1S1 = positions_S[None, :, None]
    hidden_NSL = key_N1L > last_1S1
    if window is not None:
        hidden_NSL |= key_N1L <= last_1S1 - window
    return hidden_NSL
