# mypy: ignore-errors
"""The Triton kernels of nf4.py, which imports this file when a GPU tensor comes. Their specification is the twin there.

A program works on a stretch of one row, so that nothing is divided per value. A thread reads 4 packed bytes and writes
the 8 values, 16 bytes in bfloat16, that they stand for; neighbours write side by side, and values never change the
thread. The table of 16 is read through the L1 cache: one line, so a warp's 32 lookups are one access.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from whet.engine.kernels.launch import launch
from whet.engine.kernels.nf4 import Nf4Weight

_VALUES, _WARPS = 4096, 4  # values of one program of the kernel for any width
_TYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


class Tiling(NamedTuple):
    """How ``_dequantise_words`` cuts a row (benchmarks/nf4_variants.py measures them).

    Attributes:
        words: of 4 packed bytes that a program reads at once; a power of two.
        pieces: how often it does so, one after the other.
        warps: of a program; with ``words`` more than its threads, a thread has every 32 * warps-th word.
    """

    words: int = 256
    pieces: int = 1
    warps: int = 4


TILING = Tiling()


@triton.jit
def _dequantise_words(
    PACKED, TABLE, ABSMAX, CODE, ABSMAX2, OFFSET, OUT, K, ld_out, stretches,
    NESTED: tl.constexpr, NESTED_BLOCK: tl.constexpr, BLOCK: tl.constexpr, ROUND: tl.constexpr,
    WORDS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """For K and BLOCK multiples of 8: no word runs over the end of a row or block."""
    stretch = tl.program_id(0) % stretches
    row = (tl.program_id(0) // stretches).to(tl.int64)
    first = row * K
    first_block = first // BLOCK
    before, nested_before = (first % BLOCK).to(tl.int32), (first_block % NESTED_BLOCK).to(tl.int32)
    PACKED = PACKED.to(tl.pointer_type(tl.int32), bitcast=True) + first // 8
    ABSMAX += first_block
    ABSMAX2 += first_block // NESTED_BLOCK
    OUT += row * ld_out
    if NESTED:
        offset = tl.load(OFFSET)
    # each word its own vector: with several in one, a thread's values would lie apart from its neighbour's
    lane = tl.max_contiguous(tl.arange(0, WORDS), 1)
    for piece in tl.static_range(PIECES):
        start = (stretch * PIECES + piece) * WORDS
        word = start + lane
        ok = word < K // 8
        packed = tl.load(PACKED + word, mask=ok, other=0)
        block = (before + word * 8) // BLOCK
        if NESTED:
            q = tl.load(ABSMAX + block, mask=ok, other=0).to(tl.int32)
            absmax = tl.load(CODE + q) * tl.load(ABSMAX2 + (nested_before + block) // NESTED_BLOCK, mask=ok, other=0.0)
            absmax += offset
        else:
            absmax = tl.load(ABSMAX + block, mask=ok, other=0.0)
        v0 = tl.load(TABLE + ((packed >> 4) & 15)) * absmax  # bytes in memory's order, the high half of each first
        v1 = tl.load(TABLE + (packed & 15)) * absmax
        v2 = tl.load(TABLE + ((packed >> 12) & 15)) * absmax
        v3 = tl.load(TABLE + ((packed >> 8) & 15)) * absmax
        v4 = tl.load(TABLE + ((packed >> 20) & 15)) * absmax
        v5 = tl.load(TABLE + ((packed >> 16) & 15)) * absmax
        v6 = tl.load(TABLE + ((packed >> 28) & 15)) * absmax
        v7 = tl.load(TABLE + ((packed >> 24) & 15)) * absmax
        even = tl.interleave(tl.interleave(v0, v4), tl.interleave(v2, v6))
        odd = tl.interleave(tl.interleave(v1, v5), tl.interleave(v3, v7))
        values = tl.interleave(even, odd).to(ROUND).to(OUT.dtype.element_ty)
        column = start * 8 + tl.arange(0, 8 * WORDS)
        tl.store(OUT + column, values, mask=column < K)


@triton.jit
def _dequantise(
    PACKED, TABLE, ABSMAX, CODE, ABSMAX2, OFFSET, OUT, n, n_blocks, K, ld_out, nested_block,
    NESTED: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """BLOCKS blocks of BLOCK values; for any K."""
    HALF: tl.constexpr = BLOCK // 2
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    ok = block < n_blocks
    if NESTED:
        q = tl.load(ABSMAX + block, mask=ok, other=0).to(tl.int32)
        absmax = tl.load(CODE + q) * tl.load(ABSMAX2 + block // nested_block, mask=ok, other=0.0) + tl.load(OFFSET)
    else:
        absmax = tl.load(ABSMAX + block, mask=ok, other=0.0)
    byte = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    packed = tl.load(PACKED + byte, mask=ok[:, None] & (byte * 2 < n), other=0).to(tl.int32)
    high = (tl.load(TABLE + (packed >> 4)) * absmax[:, None]).to(ROUND)
    low = (tl.load(TABLE + (packed & 15)) * absmax[:, None]).to(ROUND)
    values = tl.interleave(high, low).to(OUT.dtype.element_ty)
    at = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    tl.store(OUT + at // K * ld_out + at % K, values, mask=at < n)


def dequantise(weight: Nf4Weight, table: torch.Tensor, out_NK: torch.Tensor, tiling: Tiling = TILING) -> None:
    """See ``dequantise_nf4``."""
    N, K = weight.shape
    if N * K == 0:
        return
    if K % 8 or weight.block % 8 or weight.packed.data_ptr() % 4:
        dequantise_any(weight, table, out_NK)
        return
    nested = weight.nested
    code, absmax2, offset = (nested.code, nested.absmax, nested.offset) if nested else (table, table, table)
    stretches = triton.cdiv(K, 8 * tiling.words * tiling.pieces)
    launch(
        _dequantise_words, (N * stretches,),
        weight.packed, table, weight.absmax, code, absmax2, offset, out_NK, K, out_NK.stride(0), stretches,
        NESTED=nested is not None, NESTED_BLOCK=nested.block if nested else 1, BLOCK=weight.block,
        ROUND=_TYPES[weight.dtype], WORDS=tiling.words, PIECES=tiling.pieces,
        num_warps=tiling.warps, enable_fp_fusion=False,
    )  # fmt: skip


def dequantise_any(weight: Nf4Weight, table: torch.Tensor, out_NK: torch.Tensor) -> None:
    """``dequantise`` for rows of any width and blocks that run over their ends."""
    N, K = weight.shape
    n_blocks = -(-N * K // weight.block)
    nested = weight.nested
    code, absmax2, offset = (nested.code, nested.absmax, nested.offset) if nested else (table, table, table)
    blocks = max(1, _VALUES // weight.block)
    launch(
        _dequantise, (triton.cdiv(n_blocks, blocks),),
        weight.packed, table, weight.absmax, code, absmax2, offset, out_NK,
        N * K, n_blocks, K, out_NK.stride(0), nested.block if nested else 1,
        NESTED=nested is not None, BLOCK=weight.block, BLOCKS=blocks,
        ROUND=_TYPES[weight.dtype], num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
