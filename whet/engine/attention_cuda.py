"""Attention on a GPU through aten: FlashAttention-2 for documents of any lengths, cuDNN for equal ones.

Both take grouped key/value heads and strided views as they are, and return tensors in (tokens, heads, E) order.
bfloat16 and float16 only.

T tokens, H query heads, G key/value heads, E head size; n documents of L tokens.
"""

from __future__ import annotations

import torch

from whet.engine.attention_choice import bucket
from whet.engine.documents import Part, Scores

_aten = torch.ops.aten


# ------------------------------------------------------------------------------------------------ FlashAttention-2


def varlen(
    q_THE: torch.Tensor, k_TGE: torch.Tensor, v_TGE: torch.Tensor, cu: torch.Tensor, longest: int, scores: Scores
) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
    """o (T, H, E), (lse (H, T),)."""
    out = _aten._flash_attention_forward(
        q_THE, k_TGE, v_TGE, cu, cu, longest, longest, 0.0, True, False, scale=scores.scale, **_window(scores)
    )
    return out[0], (out[1],)


def varlen_backward(
    do_THE: torch.Tensor,
    q_THE: torch.Tensor,
    k_TGE: torch.Tensor,
    v_TGE: torch.Tensor,
    o_THE: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    cu: torch.Tensor,
    longest: int,
    scores: Scores,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq, dk, dv."""
    (lse_HT,) = saved
    state = torch.zeros(2, dtype=torch.uint64, device=q_THE.device)  # of dropout, which is off
    unused = torch.empty(0, dtype=torch.uint64, device=q_THE.device)
    dq, dk, dv = _aten._flash_attention_backward(
        do_THE, q_THE, k_TGE, v_TGE, o_THE, lse_HT, cu, cu, longest, longest, 0.0, True, state, unused,
        scale=scores.scale, **_window(scores),
    )  # fmt: skip
    return dq, dk, dv


def _window(scores: Scores) -> dict[str, int]:
    """aten counts the earlier tokens, without the token itself."""
    return {} if scores.window is None else {"window_size_left": scores.window - 1, "window_size_right": 0}


# ----------------------------------------------------------------------------------------------------------- cuDNN


def dense(
    q_THE: torch.Tensor, k_TGE: torch.Tensor, v_TGE: torch.Tensor, part: Part, scores: Scores
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """o of the part's tokens, and (lse, seed, offset).

    One document is computed at its bucket's length: its rows and the rows after them, which may be the next document's.
    No row of the document sees a later one, and the results of the later ones are dropped.
    """
    q, k, v = (_batch(t, part) for t in (q_THE, k_TGE, v_TGE))
    out = _aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True, False, scale=scores.scale)
    return _tokens(out[0], part), (out[1], out[6], out[7])


def dense_backward(
    do_THE: torch.Tensor,
    q_THE: torch.Tensor,
    k_TGE: torch.Tensor,
    v_TGE: torch.Tensor,
    o_THE: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    part: Part,
    scores: Scores,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq, dk, dv of the part's tokens. Rows after the document get a zero gradient, so they add exactly nothing."""
    lse, seed, offset = saved
    q, k, v, o = (_batch(t, part) for t in (q_THE, k_TGE, v_TGE, o_THE))
    do = _batch(do_THE[: part.stop], part)
    length = q.shape[2]
    grads = _aten._scaled_dot_product_cudnn_attention_backward(
        do, q, k, v, o, lse, seed, offset, None, None, None, length, length, 0.0, True, scale=scores.scale
    )
    dq, dk, dv = (_tokens(grad, part) for grad in grads)
    return dq, dk, dv


def _batch(t_THE: torch.Tensor, part: Part) -> torch.Tensor:
    """The part as (n, H, L, E): a view, or for one document at the end a copy with zeros after it."""
    count = part.last - part.first
    size = part.stop - part.start
    if count > 1:
        return t_THE[part.start : part.stop].unflatten(0, (count, size // count)).transpose(1, 2)
    length = bucket(size)
    rows = t_THE[part.start : part.start + length]
    if len(rows) < length:
        padded = rows.new_zeros(length, *rows.shape[1:])
        padded[: len(rows)] = rows
        rows = padded
    return rows[None].transpose(1, 2)


def _tokens(t_nHLE: torch.Tensor, part: Part) -> torch.Tensor:
    return t_nHLE.transpose(1, 2).flatten(0, 1)[: part.stop - part.start]
