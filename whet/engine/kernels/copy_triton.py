# mypy: ignore-errors
"""Strided row copies and sums of rows on the GPU; ``copy`` says what is computed."""

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


@triton.jit(do_not_specialize=["rows"])
def _sum(SRC, INDEX, DST, rows, width, src_row, dst_row, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    columns = (c < width)[None, :]
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for j in tl.static_range(COUNT):
        source = tl.load(INDEX + j * rows + row, mask=inside, other=-1)
        there = (source >= 0)[:, None] & columns
        total += tl.load(SRC + (source * src_row)[:, None] + c[None, :], mask=there, other=0.0).to(tl.float32)
    target = DST + (row.to(tl.int64) * dst_row)[:, None] + c[None, :]
    tl.store(target, total.to(DST.dtype.element_ty), mask=inside[:, None] & columns)


def sum_rows(src_TN: torch.Tensor, index_JS: torch.Tensor, dst_SN: torch.Tensor) -> None:
    """As ``copy.sum_rows``."""
    rows, width = dst_SN.shape
    block = min(TILE, triton.next_power_of_2(width))
    tile_rows = TILE // block
    grid = (triton.cdiv(rows, tile_rows), triton.cdiv(width, block))
    tensors = (src_TN, index_JS, dst_SN)
    strides = (src_TN.stride(0), dst_SN.stride(0))
    launch(
        _sum, grid, *tensors, rows, width, *strides, COUNT=len(index_JS), ROWS=tile_rows, BLOCK=block, num_warps=8
    )  # fmt: skip
