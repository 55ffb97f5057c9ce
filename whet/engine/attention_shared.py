"""Attention where documents share tokens: rows of whole documents are gathered, and gradients of shared tokens added.

All else of a model treats tokens one by one, and so has a shared prompt once; attention alone sees documents. A pair of
P prompt and A answer tokens each costs attention two documents of P + A tokens, (P + A)^2 scores, where P^2 / 2 + 2 A P
+ A^2 would do: P^2 / 2 more. For it every kernel stays what it is, for windows, caps and any device, and two equal
documents run in cuDNN's faster kernel, where attention with fewer queries than keys has FlashAttention-2 only
(attention_choice.py has their rates).

A shared token's second row has the output of its first, which nobody reads: its gradient is zero, and so that of its
query exactly; keys and values get the sum of both rows'.

T tokens, S rows; H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from whet.engine.documents import Documents, Rows, Scores
from whet.engine.kernels.copy import sum_rows


def forward(
    attend: Callable[..., tuple[torch.Tensor, tuple[torch.Tensor, ...]]],
    heads: Any,
    documents: Documents,
    scores: Scores,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """o (T, H, E), and what ``backward`` wants; ``attend`` takes heads of S rows, a named tuple of q, k and v."""
    rows = _rows(documents)
    whole = type(heads)(*(_taken(t, rows.tokens_1S) for t in heads))
    o_SHE, saved = attend(whole, documents, scores)
    return _taken(o_SHE, rows.rows_JT[:1]), saved


def backward(
    attend_backward: Callable[..., Sequence[torch.Tensor]],
    do_THE: torch.Tensor,
    heads: Any,
    o_THE: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    documents: Documents,
    scores: Scores,
) -> list[torch.Tensor]:
    """dq (T, H, E), dk and dv (T, G, E)."""
    rows = _rows(documents)
    whole = type(heads)(*(_taken(t, rows.tokens_1S) for t in heads))
    do_SHE, o_SHE = _taken(do_THE, rows.first_1S), _taken(o_THE, rows.tokens_1S)
    dq_SHE, dk_SGE, dv_SGE = attend_backward(do_SHE, whole, o_SHE, saved, documents, scores)
    del whole, do_SHE, o_SHE
    return [_taken(dq_SHE, rows.rows_JT[:1]), *(_taken(grad, rows.rows_JT) for grad in (dk_SGE, dv_SGE))]


def _taken(t_THE: torch.Tensor, index_JS: torch.Tensor) -> torch.Tensor:
    """(S, H, E): sums of rows, always in the same order."""
    out = t_THE.new_empty(index_JS.shape[1], *t_THE.shape[1:])
    sum_rows(t_THE.flatten(1), index_JS, out.flatten(1))
    return out


def _rows(documents: Documents) -> Rows:
    assert documents.rows is not None
    return documents.rows
