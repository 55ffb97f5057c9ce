"""Attention on the CPU: short documents of like length together, long ones one at a time by aten's flash attention.

Flash attention runs in float32 for bfloat16: its bfloat16 form takes as long forward and twice as long backward on a
CPU with such products, and five times as long on one without. Short documents are gathered, with rows repeated after
their ends, into one batch: no row sees a later one, and the repeated rows get a zero gradient. Up to ``PRODUCTS`` rows
the batch is a batched product (``attention_short.py``): 23 documents of 4 to 62 tokens in bfloat16, 8 query and 2
key/value heads of 64, forward + backward on one core: 9.2 ms, by flash attention 10.6. Key/value heads are expanded,
not copied.

T tokens, H query heads, G key/value heads, g = H / G, E head size; n documents of P rows each, M = n G.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from whet.engine import attention_short
from whet.engine.kernels.dispatch import wide

SHORT, STEP = 256, 16  # documents up to SHORT are batched, with lengths rounded up to STEP
PRODUCTS = 128  # rows of a batch up to which it is a batched product
KEPT_BATCHES = 64

_aten = torch.ops.aten


class Batch(NamedTuple):
    """Documents of like length.

    ``size``: P. ``rows``: where each row comes from; a slice of T where that is all of them in order, without repeats.
    ``real``: places of the rows that are not repeats among the n * P, or None for all; ``targets``: where those belong
    in T; ``repeats``: places of the others.
    """

    documents: int
    size: int
    rows: slice | torch.Tensor
    real: torch.Tensor | None
    targets: slice | torch.Tensor
    repeats: torch.Tensor | None


def forward(
    q_THE: torch.Tensor,
    k_TGE: torch.Tensor,
    v_TGE: torch.Tensor,
    o_THE: torch.Tensor,
    lse_TH: torch.Tensor,
    lengths: Sequence[int],
    scale: float,
) -> None:
    """Fills o and lse."""
    groups = k_TGE.shape[1]
    for batch in batches_of(tuple(lengths)):
        q, k, v = (_by_group(_taken(t, batch), batch.documents, groups) for t in (q_THE, k_TGE, v_TGE))
        if batch.size <= PRODUCTS:
            o, lse = attention_short.forward(q, k, v, scale)
        else:
            q, k, v = _for_flash(q, k, v)
            o, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
        _put(o_THE, _rows(o, batch, groups), batch)
        _put(lse_TH, _rows(lse[..., None], batch, groups)[..., 0], batch)


def backward(
    do_THE: torch.Tensor,
    heads: Sequence[torch.Tensor],
    o_THE: torch.Tensor,
    lse_TH: torch.Tensor,
    out: Sequence[torch.Tensor],
    lengths: Sequence[int],
    scale: float,
) -> None:
    """Fills ``out``, the gradients of ``heads`` (q, k and v)."""
    groups = heads[1].shape[1]
    for batch in batches_of(tuple(lengths)):
        taken = [_taken(t, batch) for t in (*heads, o_THE, do_THE)]
        if batch.repeats is not None:
            taken[-1].index_fill_(0, batch.repeats, 0)
        q, k, v, o, do = (_by_group(t, batch.documents, groups) for t in taken)
        lse = _by_group(_taken(lse_TH, batch)[..., None], batch.documents, groups)[..., 0]
        if batch.size <= PRODUCTS:
            grads = attention_short.backward(do, q, k, v, o, lse, scale)
        else:
            grads = _flash_backward(do, q, k, v, o, lse, scale)
        for target, grad in zip(out, grads, strict=True):
            _put(target, _rows(grad, batch, groups), batch)


@lru_cache(maxsize=KEPT_BATCHES)
def batches_of(lengths: tuple[int, ...]) -> tuple[Batch, ...]:
    """Every document in one batch: alone, or with others of like length."""
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    alike: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        alike.setdefault(-(-length // STEP) * STEP if length <= SHORT else -number, []).append(number)
    return tuple(_batch([(starts[n], lengths[n]) for n in numbers]) for numbers in alike.values())


def _batch(spans: list[tuple[int, int]]) -> Batch:
    """One batch of documents (start, length), as long as the longest of them."""
    size = max(length for _, length in spans)
    total = sum(length for _, length in spans)
    last, length = spans[-1]
    if total == size * len(spans) and last + length - spans[0][0] == total:  # neighbours of equal length
        rows = slice(spans[0][0], last + length)
        return Batch(len(spans), size, rows, None, rows, None)
    offset_P = torch.arange(size)
    start_n1, length_n1 = torch.tensor(spans).T[..., None]
    rows_nP = start_n1 + torch.minimum(offset_P, length_n1 - 1)
    real_nP = offset_P < length_n1
    real = real_nP.flatten()
    places = torch.arange(len(real))
    return Batch(len(spans), size, rows_nP.flatten(), places[real], rows_nP[real_nP], places[~real])


def _taken(t: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The batch's n * P rows."""
    return t[batch.rows] if isinstance(batch.rows, slice) else t.index_select(0, batch.rows)


def _for_flash(
    q_MgPE: torch.Tensor, k_M1PE: torch.Tensor, v_M1PE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """In float32 or float64, key/value heads as many as query heads."""
    each, dtype = q_MgPE.shape[1], wide(q_MgPE.dtype)
    k, v = (t.to(dtype).expand(-1, each, -1, -1) for t in (k_M1PE, v_M1PE))
    return q_MgPE.to(dtype), k, v


def _flash_backward(
    do_MgPE: torch.Tensor,
    q_MgPE: torch.Tensor,
    k_M1PE: torch.Tensor,
    v_M1PE: torch.Tensor,
    o_MgPE: torch.Tensor,
    lse_MgP: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq (M, g, P, E), dk and dv (M, 1, P, E)."""
    q, k, v = _for_flash(q_MgPE, k_M1PE, v_M1PE)
    do, o = do_MgPE.to(q.dtype), o_MgPE.to(q.dtype)
    dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        do, q, k, v, o, lse_MgP, 0.0, True, scale=scale
    )
    return dq, dk.sum(1, keepdim=True), dv.sum(1, keepdim=True)


def _by_group(t_RHE: torch.Tensor, count: int, groups: int) -> torch.Tensor:
    """(n P, G g, E) as (n G, g, P, E); a view for one document."""
    return t_RHE.unflatten(0, (count, -1)).unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1)


def _rows(t: torch.Tensor, batch: Batch, groups: int) -> torch.Tensor:
    """(n G, g, P, E) as (rows, G g, E), without repeats."""
    rows = t.unflatten(0, (batch.documents, groups)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)
    return rows if batch.real is None else rows.index_select(0, batch.real)


def _put(target: torch.Tensor, rows: torch.Tensor, batch: Batch) -> None:
    """The batch's rows at their places in T."""
    if isinstance(batch.targets, slice):
        target[batch.targets] = rows
    else:
        target.index_copy_(0, batch.targets, rows.to(target.dtype))
