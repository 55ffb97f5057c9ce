"""Attention in plain PyTorch, one document at a time; without softcap and window the CPU takes aten's flash attention.

The plain form is the specification: any device and dtype, softcap, window. It makes scores in blocks of rows, so memory
grows with T, not with T squared. Key/value heads are never repeated: query heads of one of them are rows of a product.

T tokens, H query heads, G key/value heads, g = H / G, E head size, L tokens of a document, S rows of a block times g.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from whet.engine import attention_cpu
from whet.engine.documents import Scores

# Scores of one block: 2 MiB in float32 on a CPU (stays in the cache: 1,024 tokens with softcap took 117 + 164 ms on one
# core, 442 + 535 as one block), 256 MiB on a GPU (not measured). Small blocks of rows also skip most of what is masked.
BLOCK_SCORES = {"cpu": 1 << 19, "cuda": 1 << 26}
BLOCK_ROWS, WINDOW_ROWS = 512, 64


def forward(
    q_THE: torch.Tensor, k_TGE: torch.Tensor, v_TGE: torch.Tensor, lengths: Sequence[int], scores: Scores
) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
    """o (T, H, E) in the dtype of q, and (lse (T, H),): the logarithm of each row's sum of exponentials."""
    o_THE = q_THE.new_empty(q_THE.shape)
    lse_TH = q_THE.new_empty(q_THE.shape[:2], dtype=_wide(q_THE.dtype))
    if _has_flash(q_THE, lengths, scores):
        attention_cpu.forward(q_THE, k_TGE, v_TGE, o_THE, lse_TH, lengths, scores.scale)
        return o_THE, (lse_TH,)
    for rows in _spans(lengths):
        o_THE[rows], lse_TH[rows] = _plain(q_THE[rows], k_TGE[rows], v_TGE[rows], scores)
    return o_THE, (lse_TH,)


def backward(
    do_THE: torch.Tensor,
    q_THE: torch.Tensor,
    k_TGE: torch.Tensor,
    v_TGE: torch.Tensor,
    o_THE: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    lengths: Sequence[int],
    scores: Scores,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq (T, H, E), dk and dv (T, G, E) in the dtype of q."""
    (lse_TH,) = saved
    out = (q_THE.new_empty(q_THE.shape), k_TGE.new_empty(k_TGE.shape), v_TGE.new_empty(v_TGE.shape))
    if _has_flash(q_THE, lengths, scores):
        attention_cpu.backward(do_THE, (q_THE, k_TGE, v_TGE), o_THE, lse_TH, out, lengths, scores.scale)
        return out
    for rows in _spans(lengths):
        grads = _plain_backward(do_THE[rows], q_THE[rows], k_TGE[rows], v_TGE[rows], o_THE[rows], lse_TH[rows], scores)
        for target, grad in zip(out, grads, strict=True):
            target[rows] = grad
    return out


def _spans(lengths: Sequence[int]) -> Iterator[slice]:
    start = 0
    for length in lengths:
        yield slice(start, start + length)
        start += length


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _has_flash(q_THE: torch.Tensor, lengths: Sequence[int], scores: Scores) -> bool:
    seen = scores.window is None or scores.window >= max(lengths)
    return q_THE.device.type == "cpu" and scores.softcap is None and seen


def _plain(
    q_LHE: torch.Tensor, k_LGE: torch.Tensor, v_LGE: torch.Tensor, scores: Scores
) -> tuple[torch.Tensor, torch.Tensor]:
    heads, groups, dtype = q_LHE.shape[1], k_LGE.shape[1], _operand(q_LHE)
    k_GLE, v_GLE = (t.to(dtype).transpose(0, 1) for t in (k_LGE, v_LGE))
    o_LHE = q_LHE.new_empty(q_LHE.shape)
    lse_LH = q_LHE.new_empty(q_LHE.shape[:2], dtype=_wide(q_LHE.dtype))
    for rows, keys in _blocks(q_LHE, scores):
        q_GSE = _stacked(q_LHE[rows].to(dtype), groups)
        s_GSK, _ = _scores(q_GSE, k_GLE[:, keys], rows, keys, scores)
        lse_GS = s_GSK.logsumexp(-1)
        p_GSK = s_GSK.sub_(lse_GS[..., None]).exp_()
        o_LHE[rows] = _unstacked(_bmm(p_GSK.to(dtype), v_GLE[:, keys]), heads)
        lse_LH[rows] = _unstacked(lse_GS[..., None], heads)[..., 0]
    return o_LHE, lse_LH


def _plain_backward(
    do_LHE: torch.Tensor,
    q_LHE: torch.Tensor,
    k_LGE: torch.Tensor,
    v_LGE: torch.Tensor,
    o_LHE: torch.Tensor,
    lse_LH: torch.Tensor,
    scores: Scores,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    heads, groups, dtype, wide = q_LHE.shape[1], k_LGE.shape[1], _operand(q_LHE), _wide(q_LHE.dtype)
    k_GLE, v_GLE = (t.to(dtype).transpose(0, 1) for t in (k_LGE, v_LGE))
    dq_LHE = q_LHE.new_empty(q_LHE.shape)
    dk_GLE, dv_GLE = (torch.zeros(t.shape, dtype=wide, device=t.device) for t in (k_GLE, v_GLE))
    for rows, keys in _blocks(q_LHE, scores):
        q_GSE, do_GSE = (_stacked(t[rows].to(dtype), groups) for t in (q_LHE, do_LHE))
        o_GSE = _stacked(o_LHE[rows].to(wide), groups)
        delta_GS1 = (o_GSE * do_GSE.to(wide)).sum(-1, keepdim=True)
        s_GSK, slope_GSK = _scores(q_GSE, k_GLE[:, keys], rows, keys, scores)
        p_GSK = s_GSK.sub_(_stacked(lse_LH[rows][..., None], groups)).exp_()
        dv_GLE[:, keys] += _bmm(p_GSK.to(dtype).transpose(1, 2), do_GSE)
        ds_GSK = _bmm(do_GSE, v_GLE[:, keys].transpose(1, 2)).sub_(delta_GS1).mul_(p_GSK)
        if slope_GSK is not None:
            ds_GSK *= slope_GSK
        ds_GSK = ds_GSK.mul_(scores.scale).to(dtype)
        dq_LHE[rows] = _unstacked(_bmm(ds_GSK, k_GLE[:, keys]), heads)
        dk_GLE[:, keys] += _bmm(ds_GSK.transpose(1, 2), q_GSE)
    return dq_LHE, dk_GLE.transpose(0, 1), dv_GLE.transpose(0, 1)


def _blocks(q_LHE: torch.Tensor, scores: Scores) -> Iterator[tuple[slice, slice]]:
    """Blocks of query rows, each with the keys that any of its rows sees."""
    length, heads, window = q_LHE.shape[0], q_LHE.shape[1], scores.window
    seen = length if window is None else min(length, window)
    most = BLOCK_ROWS if window is None else min(BLOCK_ROWS, max(WINDOW_ROWS, window))
    room = BLOCK_SCORES["cpu" if q_LHE.device.type == "cpu" else "cuda"]
    size = max(1, min(length, most, room // (heads * seen)))
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = 0 if window is None else max(0, start - window + 1)
        yield slice(start, stop), slice(first, stop)


def _scores(
    q_GSE: torch.Tensor, k_GKE: torch.Tensor, rows: slice, keys: slice, scores: Scores
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scores in float32 or float64, minus infinity where a row does not look, and softcap's derivative."""
    s_GSK = _bmm(q_GSE, k_GKE.transpose(1, 2)).mul_(scores.scale)
    slope = None
    if scores.softcap is not None:
        s_GSK = s_GSK.div_(scores.softcap).tanh_()
        slope = 1 - s_GSK.square()
        s_GSK *= scores.softcap
    row_R1 = torch.arange(rows.start, rows.stop, device=q_GSE.device)[:, None]
    key_K = torch.arange(keys.start, keys.stop, device=q_GSE.device)
    hidden_RK = key_K > row_R1
    if scores.window is not None:
        hidden_RK |= key_K <= row_R1 - scores.window
    each = q_GSE.shape[1] // len(row_R1)
    s_GSK.unflatten(1, (each, -1)).masked_fill_(hidden_RK, float("-inf"))
    return s_GSK, slope


def _operand(t: torch.Tensor) -> torch.dtype:
    """The dtype of the products: short dtypes stay as they are on a GPU only."""
    return t.dtype if t.is_cuda else _wide(t.dtype)


def _bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a · b, in float32 for short dtypes."""
    if a.dtype in (torch.float32, torch.float64):
        return torch.bmm(a, b)
    return torch.bmm(a, b, out_dtype=torch.float32)


def _stacked(t_RHE: torch.Tensor, groups: int) -> torch.Tensor:
    """(R, G g, E) as (G, g R, E)."""
    return t_RHE.unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(1, 2)


def _unstacked(t_GSE: torch.Tensor, heads: int) -> torch.Tensor:
    """(G, g R, E) as (R, G g, E)."""
    each = heads // t_GSE.shape[0]
    return t_GSE.unflatten(1, (each, -1)).permute(2, 0, 1, 3).flatten(1, 2)
