"""Causal attention inside each document of a flattened micro-batch, forward and backward, by the fastest known way.

    T tokens, all documents one after the other; H query heads, G key/value heads (H a multiple of G), E head size.

``whet/engine/attention_choice.py`` decides which kernel runs, from lengths and shapes alone: the backward decides as
the forward did, and no kernel is timed at run time. Documents never see each other: changing the tokens of one leaves
the results of the others bit-identical. Tokens that two documents share (``Documents.rows``) are rows of both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from whet.engine import attention_cuda, attention_plain, attention_shared
from whet.engine.attention_choice import parts_of
from whet.engine.documents import Documents as Documents
from whet.engine.documents import Part, Scores
from whet.engine.documents import documents_of as documents_of

Saved = tuple[torch.Tensor, ...]


class Heads(NamedTuple):
    """q, k, v, or their gradients."""

    q_THE: torch.Tensor
    k_TGE: torch.Tensor
    v_TGE: torch.Tensor


def attention(
    q_THE: torch.Tensor,
    k_TGE: torch.Tensor,
    v_TGE: torch.Tensor,
    documents: Documents,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> tuple[torch.Tensor, Saved]:
    """Each token attends to itself and to the earlier tokens of its own document.

    Args:
        q_THE, k_TGE, v_TGE: may be strided views of one buffer; E contiguous.
        scale, softcap, window: see ``LayerSpec``; ``window`` counts the token itself.

    Returns:
        o (T, H, E) in the dtype of q, and the tensors that ``attention_backward`` wants: for most kernels (H, T) or
        (T, H) float32 and some bytes. All of them are tensors, so they can go through ``save_for_backward``.

    Raises:
        ValueError: documents of another number of tokens, or heads that are no multiple of the key/value heads.
    """
    scores = Scores(scale, softcap, window)
    _check(q_THE, k_TGE, documents)
    if documents.rows is not None:
        return attention_shared.forward(_forward, Heads(q_THE, k_TGE, v_TGE), documents, scores)
    return _forward(Heads(q_THE, k_TGE, v_TGE), documents, scores)


def _forward(heads: Heads, documents: Documents, scores: Scores) -> tuple[torch.Tensor, Saved]:
    q_THE = heads.q_THE
    parts = parts_of(q_THE, documents.lengths, scores)
    if len(parts) == 1:
        return _part_forward(heads, documents, parts[0], scores)
    o_THE = q_THE.new_empty(q_THE.shape)
    saved: Saved = ()
    for part in parts:
        o_THE[part.start : part.stop], kept = _part_forward(heads, documents, part, scores)
        saved += kept
    return o_THE, saved


def attention_backward(
    do_THE: torch.Tensor,
    q_THE: torch.Tensor,
    k_TGE: torch.Tensor,
    v_TGE: torch.Tensor,
    o_THE: torch.Tensor,
    saved: Saved,
    documents: Documents,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    out: Heads | tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> Heads:
    """Gradients of q, k and v, in their shapes and dtype.

    Args:
        do_THE: gradient of o. The other arguments are those of ``attention`` and what it returned.
        out: where to write them, for instance views of the buffer of the whole group; saves a copy where there are
            several parts, costs one where there is one.
    """
    scores = Scores(scale, softcap, window)
    _check(q_THE, k_TGE, documents)
    heads = Heads(q_THE, k_TGE, v_TGE)
    if documents.rows is None:
        return _backward(do_THE, heads, o_THE, saved, documents, scores, None if out is None else Heads(*out))
    grads = attention_shared.backward(_backward, do_THE, heads, o_THE, saved, documents, scores)
    if out is None:
        return Heads(*grads)
    for target, grad in zip(out, grads, strict=True):
        target.copy_(grad)
    return Heads(*out)


def _backward(
    do_THE: torch.Tensor,
    heads: Heads,
    o_THE: torch.Tensor,
    saved: Saved,
    documents: Documents,
    scores: Scores,
    out: Heads | None = None,
) -> Heads:
    parts = parts_of(heads.q_THE, documents.lengths, scores)
    if len(parts) == 1 and out is None:
        return Heads(*_part_backward(do_THE, heads, o_THE, saved, documents, parts[0], scores))
    targets = out if out is not None else Heads(*(t.new_empty(t.shape) for t in heads))
    taken = 0
    for part in parts:
        count = SAVED_TENSORS[part.kind]
        kept, taken = saved[taken : taken + count], taken + count
        for target, grad in zip(
            targets, _part_backward(do_THE, heads, o_THE, kept, documents, part, scores), strict=True
        ):
            target[part.start : part.stop] = grad
    return targets


SAVED_TENSORS = {"each": 1, "fa2": 1, "cudnn": 3}  # of one part


def _check(q_THE: torch.Tensor, k_TGE: torch.Tensor, documents: Documents) -> None:
    if documents.tokens != q_THE.shape[0]:
        raise ValueError(f"documents of {documents.tokens} tokens, but q has {q_THE.shape[0]}")
    if q_THE.shape[1] % k_TGE.shape[1]:
        raise ValueError(f"{q_THE.shape[1]} query heads are no multiple of {k_TGE.shape[1]} key/value heads")


def _part_forward(heads: Heads, documents: Documents, part: Part, scores: Scores) -> tuple[torch.Tensor, Saved]:
    if part.kind == "each":
        return attention_plain.forward(*_rows(heads, part), documents.lengths[part.first : part.last], scores)
    if part.kind == "fa2":
        cu, longest = documents.cu_of(part), max(documents.lengths[part.first : part.last])
        return attention_cuda.varlen(*_rows(heads, part), cu, longest, scores)
    return attention_cuda.dense(*heads, part, scores)


def _part_backward(
    do_THE: torch.Tensor,
    heads: Heads,
    o_THE: torch.Tensor,
    saved: Saved,
    documents: Documents,
    part: Part,
    scores: Scores,
) -> tuple[torch.Tensor, ...]:
    if part.kind == "cudnn":
        return attention_cuda.dense_backward(do_THE, *heads, o_THE, saved, part, scores)
    lengths = documents.lengths[part.first : part.last]
    do, o = do_THE[part.start : part.stop], o_THE[part.start : part.stop]
    if part.kind == "each":
        return attention_plain.backward(do, *_rows(heads, part), o, saved, lengths, scores)
    return attention_cuda.varlen_backward(
        do, *_rows(heads, part), o, saved, documents.cu_of(part), max(lengths), scores
    )


def _rows(heads: Heads, part: Part) -> Heads:
    return Heads(*(t[part.start : part.stop] for t in heads))
