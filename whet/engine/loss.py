"""Cross-entropy over labelled rows only.

With completion-only labels most positions have none: their logits are never made. Where the head is frozen, the
gradient of the hidden states is made in the forward, chunk by chunk, so that no [tokens, vocabulary] tensor is kept.

T tokens, N labelled rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

IGNORE = -100
CHUNK_ROWS = 1024  # logits of one chunk: 1,024 x 128,256 float32 are 0.5 GB


def labelled_loss(hidden_BTD: torch.Tensor, head: torch.nn.Module, labels_BT: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy, in nats, over all positions whose next token has a label.

    Args:
        hidden_BTD: last hidden states, norm included.
        head: a linear layer D -> V; its weight may be trained or frozen.
        labels_BT: not shifted; ``labels[b, t]`` is predicted by ``hidden[b, t - 1]``; IGNORE where there is none.

    Returns:
        A float32 scalar (float64 for float64 input); zero where nothing is labelled.
    """
    targets_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)
    rows = (targets_BT.flatten() != IGNORE).nonzero().squeeze(1)
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, rows)
    targets_N = targets_BT.flatten().index_select(0, rows)
    weight = getattr(head, "weight", None)
    plain = type(head) is torch.nn.Linear and weight is not None and not weight.requires_grad
    if plain and torch.is_grad_enabled():
        return _FrozenHead.apply(hidden_ND, weight, head.bias, targets_N)
    return _chunked(hidden_ND, head, targets_N)


def _chunked(
    hidden_ND: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], targets_N: torch.Tensor
) -> torch.Tensor:
    """The plain form, by autograd."""
    total = hidden_ND.new_zeros((), dtype=_wide(hidden_ND.dtype))
    for start in range(0, max(1, len(targets_N)), CHUNK_ROWS):  # once without rows too: zero, with zero gradients
        logits_NV = head(hidden_ND[start : start + CHUNK_ROWS])
        part = F.cross_entropy(logits_NV.to(total.dtype), targets_N[start : start + CHUNK_ROWS], reduction="sum")
        total = total + part
    return total


class _FrozenHead(torch.autograd.Function):
    """Loss and the gradient of the hidden states in one pass: d loss / d logits = softmax - one-hot."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, targets_N: torch.Tensor
    ) -> torch.Tensor:
        wide = _wide(hidden_ND.dtype)
        total = hidden_ND.new_zeros((), dtype=wide)
        grad_ND = torch.empty_like(hidden_ND)
        for start in range(0, len(targets_N), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            logits_NV = F.linear(hidden_ND[part].to(weight_VD.dtype), weight_VD, bias_V).to(wide)
            lse_N1 = logits_NV.logsumexp(-1, keepdim=True)
            target_N1 = targets_N[part, None]
            total += (lse_N1 - logits_NV.gather(1, target_N1)).sum()
            logits_NV = logits_NV.sub_(lse_N1).exp_()
            logits_NV.scatter_add_(1, target_N1, torch.full_like(lse_N1, -1))
            grad_ND[part] = (logits_NV.to(weight_VD.dtype) @ weight_VD).to(grad_ND.dtype)
        ctx.save_for_backward(grad_ND)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grads[0].to(grad_ND.dtype), None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
