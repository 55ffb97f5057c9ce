"""Cross-entropy over labelled rows only.

With completion-only labels most positions have none: their logits are never made. No [rows, vocabulary] tensor is kept:
where the head is frozen, the gradient of the hidden states is made in the forward, chunk by chunk of rows; where it is
trained, the backward makes the logits again, slice by slice of the vocabulary (``trained_head.py``).

T tokens, N labelled rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from whet.engine.kernels.cross_entropy import cross_entropy_rows, cross_entropy_rows_
from whet.engine.kernels.dispatch import wide
from whet.engine.trained_head import head_gradients, product_dtype

IGNORE = -100
CHUNK_ROWS = 1024  # logits of one chunk: 1,024 x 128,256 float32 are 0.5 GB


def labelled_loss(hidden_BTD: torch.Tensor, head: torch.nn.Module, labels_BT: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy, in nats, over all positions whose next token has a label.

    Args:
        hidden_BTD: last hidden states, norm included.
        head: a linear layer D -> V, trained or frozen, or anything that makes logits.
        labels_BT: not shifted; ``labels[b, t]`` is predicted by ``hidden[b, t - 1]``; IGNORE where there is none.

    Returns:
        A float32 scalar (float64 for float64 input); zero where nothing is labelled.
    """
    targets_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)
    rows = (targets_BT.flatten() != IGNORE).nonzero().squeeze(1)
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, rows)
    targets_N = targets_BT.flatten().index_select(0, rows)
    if type(head) is torch.nn.Linear:
        return head_loss(hidden_ND, head.weight, targets_N, bias=head.bias, chunk_rows=CHUNK_ROWS)
    return module_loss(hidden_ND, head, targets_N, chunk_rows=CHUNK_ROWS)


def head_loss(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """Sum of the cross-entropy, in nats, over rows of hidden states and their targets, under a linear head.

    Args:
        hidden_ND: last hidden states of the labelled rows, norm included.
        weight_VD: the head's weight, trained or frozen. The products are made in its dtype, the loss in float32.
        targets_N: int64; IGNORE where a row has no label.
        bias: of the head, (V,); trained or frozen.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2: 30).
        chunk_rows: rows whose logits are there at once; the backward of a trained head has as many logits at once.

    Returns:
        A float32 scalar (float64 for float64 input), differentiable in ``hidden_ND``, ``weight_VD`` and ``bias``.
    """
    return _row_losses(hidden_ND, weight_VD, targets_N, bias, softcap, chunk_rows).sum()


def token_logprobs(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """The log-probability of every row's target: ``logp_N``; arguments and dtype as of ``head_loss``."""
    return -_row_losses(hidden_ND, weight_VD, targets_N, bias, softcap, chunk_rows)


def _row_losses(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None,
    softcap: float | None,
    chunk_rows: int,
) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return _chunk_losses(hidden_ND, weight_VD, targets_N, bias_V, softcap, chunk_rows)
    trained = weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad)
    head = _TrainedHead if trained else _FrozenHead
    return head.apply(hidden_ND, weight_VD, targets_N, bias_V, softcap, chunk_rows)


def _chunk_losses(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None,
    softcap: float | None,
    chunk_rows: int,
    grad_ND: torch.Tensor | None = None,
    lse_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of every row, and its gradient into ``grad_ND``, or the log-sum-exp of its logits into ``lse_N``; one
    chunk of logits exists at a time."""
    loss_N = torch.empty(len(targets_N), dtype=wide(hidden_ND.dtype), device=hidden_ND.device)
    for start in range(0, len(targets_N), chunk_rows):
        part = slice(start, start + chunk_rows)
        logits_NV = F.linear(hidden_ND[part].to(weight_VD.dtype), weight_VD, bias_V)
        if grad_ND is None:
            lse = None if lse_N is None else lse_N[part]
            loss_N[part] = cross_entropy_rows(logits_NV, targets_N[part], softcap=softcap, lse_N=lse)
        else:
            loss_N[part] = cross_entropy_rows_(logits_NV, targets_N[part], softcap=softcap)
            grad_ND[part] = logits_NV @ weight_VD
        del logits_NV  # before the next chunk's are made
    return loss_N


def module_loss(
    hidden_ND: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    targets_N: torch.Tensor,
    *,
    softcap: float | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """``head_loss`` for any head (with an adapter, for one): its own forward, by autograd, which keeps the logits."""
    total = hidden_ND.new_zeros((), dtype=wide(hidden_ND.dtype))
    for start in range(0, max(1, len(targets_N)), chunk_rows):  # once without rows too: zero, with zero gradients
        logits_NV = head(hidden_ND[start : start + chunk_rows]).to(total.dtype)
        if softcap is not None:
            logits_NV = torch.tanh(logits_NV / softcap) * softcap
        part = F.cross_entropy(logits_NV, targets_N[start : start + chunk_rows], reduction="sum", ignore_index=IGNORE)
        total = total + part
    return total


def module_logprobs(
    hidden_ND: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    targets_N: torch.Tensor,
    *,
    softcap: float | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> torch.Tensor:
    """``token_logprobs`` for any head (with an adapter, for one). The backward makes each chunk's logits again, so
    that one chunk of them exists at a time."""

    def chunk(rows_ND: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
        logits_NV = head(rows_ND).to(wide(hidden_ND.dtype))
        if softcap is not None:
            logits_NV = torch.tanh(logits_NV / softcap) * softcap
        return -F.cross_entropy(logits_NV, labels_N, reduction="none", ignore_index=IGNORE)

    parts = []
    for start in range(0, max(1, len(targets_N)), chunk_rows):
        part = hidden_ND[start : start + chunk_rows], targets_N[start : start + chunk_rows]
        parts.append(checkpoint(chunk, *part, use_reentrant=False) if torch.is_grad_enabled() else chunk(*part))
    return torch.cat(parts)


class _FrozenHead(torch.autograd.Function):
    """Losses and the gradient of the hidden states in one pass. A row's loss depends on that row alone, so that its
    gradient is made in the forward and multiplied by what comes in."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        bias_V: torch.Tensor | None,
        softcap: float | None,
        chunk_rows: int,
    ) -> torch.Tensor:
        grad_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        loss_N = _chunk_losses(hidden_ND, weight_VD, targets_N, bias_V, softcap, chunk_rows, grad_ND)
        ctx.save_for_backward(grad_ND)
        return loss_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return (grad_ND * grads[0][:, None]).to(grad_ND.dtype), None, None, None, None, None


class _TrainedHead(torch.autograd.Function):
    """Losses in chunks of rows; the backward makes the logits again, for the gradients of hidden states, weight and
    bias. Products have one dtype in both: autocast is taken by hand, because it is off in a backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        bias_V: torch.Tensor | None,
        softcap: float | None,
        chunk_rows: int,
    ) -> torch.Tensor:
        dtype = product_dtype(weight_VD)
        lse_N = torch.empty(len(targets_N), dtype=wide(dtype), device=hidden_ND.device)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            low_V = None if bias_V is None else bias_V.to(dtype)
            loss_N = _chunk_losses(hidden_ND, weight_VD.to(dtype), targets_N, low_V, softcap, chunk_rows, lse_N=lse_N)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, bias_V, lse_N)
        ctx.options = softcap, chunk_rows, dtype
        return loss_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, bias_V, lse_N = ctx.saved_tensors
        softcap, chunk_rows, dtype = ctx.options
        with torch.no_grad(), torch.autocast(hidden_ND.device.type, enabled=False):
            dhidden_ND, dweight_VD, dbias_V = head_gradients(
                grads[0],
                hidden_ND,
                weight_VD,
                targets_N,
                bias_V,
                lse_N,
                wanted=(ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]),
                softcap=softcap,
                chunk_rows=chunk_rows,
                dtype=dtype,
            )
        return dhidden_ND, dweight_VD, None, dbias_V, None, None
