# mypy: ignore-errors
"""Strided row copies on the GPU; ``copy`` says what is computed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from whet.engine.kernels.launch import launch

# Elements of one program: 16 a thread of 8 warps; narrow rows (LoRA columns) share a program.
TILE = 4096


@triton.jit(do_not_specialize=["rows"])
def _copy(SRC, DST, rows, width, src_row, dst_row, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (c < width)[None, :]
    row = row.to(tl.int64)
    values = tl.load(SRC + (row * src_row)[:, None] + c[None, :], mask=mask)
    tl.store(DST + (row * dst_row)[:, None] + c[None, :], values.to(DST.dtype.element_ty), mask=mask)


def copy(src_TN: torch.Tensor, dst_TN: torch.Tensor) -> None:
    """As ``copy.copy_rows``."""
    rows, width = src_TN.shape
    block = min(TILE, triton.next_power_of_2(width))
    tile_rows = TILE // block
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(width, block))
    strides = (src_TN.stride(0), dst_TN.stride(0))
    launch(_copy, grid, src_TN, dst_TN, rows, width, *strides, ROWS=tile_rows, BLOCK=block, num_warps=8)
