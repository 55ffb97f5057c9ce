# mypy: ignore-errors
"""A kernel of one line, to see whether Triton compiles and launches. Imported only where Triton is installed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _increment(X):
    tl.store(X, tl.load(X) + 1)


def run() -> None:
    """Raises whatever Triton raises, and RuntimeError for a wrong result."""
    x = torch.zeros(1, dtype=torch.int32, device="cuda")
    _increment[(1,)](x)
    if x.item() != 1:
        raise RuntimeError("a kernel gave a wrong result")
