# mypy: ignore-errors
"""Rotary position embedding on the GPU; ``rope`` says what is computed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from whet.engine.kernels.launch import launch

# Pairs of one program of 4 warps: 8 bfloat16 (16 bytes) a thread from each half.
TILE = 1024


@triton.jit(do_not_specialize=["rows"])
def _rotate(
    X,
    COS,
    SIN,
    rows,
    x_token,
    x_head,
    cos_token,
    sin_token,
    sign,
    HEADS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (c < C)[None, :]
    token, head = (row // HEADS).to(tl.int64), row % HEADS
    at = X + (token * x_token + head * x_head)[:, None] + c[None, :]
    cos = tl.load(COS + (token * cos_token)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    sin = tl.load(SIN + (token * sin_token)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32) * sign
    a = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(at + C, mask=mask, other=0.0).to(tl.float32)
    tl.store(at, (a * cos - b * sin).to(X.dtype.element_ty), mask=mask)
    tl.store(at + C, (b * cos + a * sin).to(X.dtype.element_ty), mask=mask)


def rotate_(t_TNE: torch.Tensor, cos_TC: torch.Tensor, sin_TC: torch.Tensor, inverse: bool) -> None:
    """In place, as ``rope.rope_``."""
    tokens, heads, _ = t_TNE.shape
    pairs = cos_TC.shape[1]
    block = triton.next_power_of_2(pairs)
    rows = max(1, TILE // block)
    strides = (t_TNE.stride(0), t_TNE.stride(1), cos_TC.stride(0), sin_TC.stride(0))
    grid = (triton.cdiv(tokens * heads, rows),)
    sign = -1.0 if inverse else 1.0
    constants = {"HEADS": heads, "C": pairs, "ROWS": rows, "BLOCK": block, "num_warps": 4}
    launch(_rotate, grid, t_TNE, cos_TC, sin_TC, tokens * heads, *strides, sign, **constants)
