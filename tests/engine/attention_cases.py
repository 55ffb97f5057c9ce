"""Attention by its definition, in float64 and by autograd, and inputs for it."""

from __future__ import annotations

from typing import Any

import torch

from whet.engine.attention import Documents, attention, attention_backward
from whet.engine.documents import Scores

E, SCALE = 8, 0.4


def reference(heads: list[torch.Tensor], lengths: tuple[int, ...], scores: Scores) -> torch.Tensor:
    """The definition, by autograd."""
    q, k, v = heads
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    row = torch.arange(sum(lengths), device=q.device)
    document = torch.cat([torch.full((n,), i, device=q.device) for i, n in enumerate(lengths)])
    seen = (document[:, None] == document) & (row[:, None] >= row)
    if scores.window is not None:
        seen &= row[:, None] - row < scores.window
    s = torch.einsum("qhe,khe->hqk", q, k) * scores.scale
    if scores.softcap is not None:
        s = scores.softcap * torch.tanh(s / scores.softcap)
    p = s.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khe->qhe", p, v)


def heads_of(
    tokens: int,
    heads: int,
    groups: int,
    dtype: torch.dtype = torch.float64,
    *,
    size: int = E,
    spare: int = 5,
    seed: int = 0,
) -> list[torch.Tensor]:
    """q, k, v as strided views of one wider buffer."""
    torch.manual_seed(seed)
    width = (heads + 2 * groups) * size
    rows = torch.randn(tokens, width + spare, dtype=torch.float64).to(dtype)[:, :width]
    return list(rows.unflatten(1, (-1, size)).split([heads, groups, groups], 1))


def both(heads: list[torch.Tensor], do: torch.Tensor, lengths: tuple[int, ...], scores: Scores, **extra: Any) -> list:
    documents = Documents.of(lengths, do.device)
    o, saved = attention(*heads, documents, **scores._asdict())
    assert all(isinstance(t, torch.Tensor) for t in saved)
    return [o, *attention_backward(do, *heads, o, saved, documents, **scores._asdict(), **extra)]


def wanted(heads: list[torch.Tensor], do: torch.Tensor, lengths: tuple[int, ...], scores: Scores) -> list[torch.Tensor]:
    exact = [t.double().detach().requires_grad_() for t in heads]
    o = reference(exact, lengths, scores)
    return [o.detach(), *torch.autograd.grad(o, exact, do.double())]


def off(got: list[torch.Tensor], want: list[torch.Tensor]) -> float:
    """The largest relative difference; of what should be zero (one token alone) the size itself."""
    return max(((a.double() - b).norm() / (b.norm() or 1.0)).item() for a, b in zip(got, want, strict=True))
