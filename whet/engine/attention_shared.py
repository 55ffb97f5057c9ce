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


def forward(
    attend: Callable[..., tuple[torch.Tensor, tuple[torch.Tensor, ...]]],
    heads: Any,
    documents: Documents,
    scores: Scores,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """o (T, H, E), and what ``backward`` wants; ``attend`` takes heads of S rows, a named tuple of q, k and v."""
    rows = _rows(documents)
    o_SHE, saved = attend(type(heads)(*(t.index_select(0, rows.tokens_S) for t in heads)), documents, scores)
    return o_SHE.index_select(0, rows.first_T), saved


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
    whole = type(heads)(*(t.index_select(0, rows.tokens_S) for t in heads))
    do_SHE, o_SHE = (t.index_select(0, rows.tokens_S) for t in (do_THE, o_THE))
    for _, places in rows.again:
        do_SHE.index_fill_(0, places, 0)
    grads = list(attend_backward(do_SHE, whole, o_SHE, saved, documents, scores))
    del whole, do_SHE, o_SHE
    return [grads[0].index_select(0, rows.first_T), *(_summed(grad, rows) for grad in grads[1:])]


def _summed(grad_SGE: torch.Tensor, rows: Rows) -> torch.Tensor:
    """For each token the sum over its rows, always in the same order."""
    total_TGE = grad_SGE.index_select(0, rows.first_T)
    for tokens, places in rows.again:
        total_TGE.index_copy_(0, tokens, total_TGE.index_select(0, tokens) + grad_SGE.index_select(0, places))
    return total_TGE


def _rows(documents: Documents) -> Rows:
    assert documents.rows is not None
    return documents.rows
