"""Copies of odd shapes between strided, poisoned matrices, and what they should give."""

from __future__ import annotations

import torch

from whet.engine.kernels.scatter import Copy

SHAPES = [(1, 1), (3, 700), (8, 2049), (500, 7), (64, 64), (2, 5000)]


def copies(
    target: torch.dtype, device: str, source: torch.dtype = torch.float32
) -> tuple[list[Copy], list[torch.Tensor]]:
    """The copies, and the wider buffers, filled with NaN, whose parts are the targets."""
    torch.manual_seed(0)
    out, buffers = [], []
    for number, (rows, columns) in enumerate(SHAPES):
        values = torch.randn(rows, columns + number).to(source).to(device)[:, :columns]
        buffer = torch.full((rows + 2, columns + 9), float("nan"), dtype=target, device=device)
        out.append((buffer[1:-1, 4:-5], values, 1.0 if number % 2 else 0.3))
        buffers.append(buffer)
    return out, buffers


def problems(done: list[Copy], buffers: list[torch.Tensor], bound: float) -> list[str]:
    """Targets off by more than ``bound`` of their size; writes beside them."""
    wrong = []
    for (target, source, factor), buffer in zip(done, buffers, strict=True):
        want = source.double() * factor
        if not ((target.double() - want).abs() <= bound * want.abs()).all():
            wrong.append(f"values of {tuple(target.shape)}")
        if buffer.isnan().sum() != buffer.numel() - target.numel():
            wrong.append(f"beside {tuple(target.shape)}")
    return wrong
