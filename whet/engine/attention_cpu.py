"""aten's flash attention on the CPU: long documents one at a time, short ones of like length together.

In float32 for bfloat16: its bfloat16 form was 5 times slower on a CPU without such products, and less exact. A call
costs about 0.3 ms beside its arithmetic (60 documents of 17 tokens, forward + backward on one core: 41 ms one by one,
11 ms together), so short documents are gathered, with rows repeated after their ends, into one
batch: no row sees a later one, and the repeated rows get a zero gradient. Key/value heads are expanded, not copied.

T tokens, H query heads, G key/value heads, g = H / G, E head size; n documents of P rows each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

SHORT, STEP = 256, 16  # documents up to SHORT are batched, with lengths rounded up to STEP
KEPT_BATCHES = 64

_aten = torch.ops.aten


class Batch(NamedTuple):
    """Documents of like length.

    ``rows_nP``: where each row comes from; a slice of T where that is all of them in order, without repeats.
    ``real``: which of the n * P rows are not repeats, or None for all; ``targets``: where those belong in T.
    """

    documents: int
    rows: slice | torch.Tensor
    real: torch.Tensor | None
    targets: slice | torch.Tensor


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
        q, k, v = _heads(batch, q_THE, k_TGE, v_TGE)
        o, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True, scale=scale)
        o_THE[batch.targets] = _rows(o, batch, groups).to(o_THE.dtype)
        lse_TH[batch.targets] = _rows(lse[..., None], batch, groups)[..., 0]


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
        q, k, v = _heads(batch, *heads)
        do, o = (_by_group(_taken(t, batch), batch.documents, groups) for t in (do_THE, o_THE))
        if batch.real is not None:
            real_n11P1 = batch.real.view(batch.documents, 1, 1, -1, 1)
            do = do.unflatten(0, (batch.documents, groups)).masked_fill(~real_n11P1, 0).flatten(0, 1)
        lse = _by_group(_taken(lse_TH, batch)[..., None], batch.documents, groups)[..., 0]
        dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            do, q, k, v, o, lse, 0.0, True, scale=scale
        )
        grads = (dq, dk.sum(1, keepdim=True), dv.sum(1, keepdim=True))
        for target, grad in zip(out, grads, strict=True):
            target[batch.targets] = _rows(grad, batch, groups).to(target.dtype)


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
        return Batch(len(spans), rows, None, rows)
    offset_P = torch.arange(size)
    start_n1, length_n1 = torch.tensor(spans).T[..., None]
    rows_nP = start_n1 + torch.minimum(offset_P, length_n1 - 1)
    real_nP = offset_P < length_n1
    rows = rows_nP.flatten()
    return Batch(len(spans), rows, real_nP.flatten(), rows_nP[real_nP])


def _taken(t: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The batch's n * P rows, in float32 or float64."""
    rows = t[batch.rows] if isinstance(batch.rows, slice) else t.index_select(0, batch.rows)
    return rows if rows.dtype == torch.float64 else rows.float()


def _heads(
    batch: Batch, q_THE: torch.Tensor, k_TGE: torch.Tensor, v_TGE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As (n G, g, P, E): a batch for each document and key/value head."""
    groups, each = k_TGE.shape[1], q_THE.shape[1] // k_TGE.shape[1]
    k, v = (_by_group(_taken(t, batch), batch.documents, groups).expand(-1, each, -1, -1) for t in (k_TGE, v_TGE))
    return _by_group(_taken(q_THE, batch), batch.documents, groups), k, v


def _by_group(t_RHE: torch.Tensor, count: int, groups: int) -> torch.Tensor:
    """(n P, G g, E) as (n G, g, P, E); a view for one document."""
    return t_RHE.unflatten(0, (count, -1)).unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1)


def _rows(t: torch.Tensor, batch: Batch, groups: int) -> torch.Tensor:
    """(n G, g, P, E) as (rows, G g, E), without repeats."""
    rows = t.unflatten(0, (batch.documents, groups)).permute(0, 3, 1, 2, 4).flatten(2, 3).flatten(0, 1)
    return rows if batch.real is None else rows[batch.real]
