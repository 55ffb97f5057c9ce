# mypy: ignore-errors
"""The Triton kernel of nf4.py, which imports this file when a GPU tensor comes. Its specification is the twin there.

One H200, 14336 x 4096 into a strided buffer: 49-51 us, 3,020-3,070 GB/s; with double quantisation 2,890 (a copy reaches
4,260). The table of 16 is read through the L1 cache: a tree of selects was 1.5 to 1.7 times slower.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from whet.engine.kernels.nf4 import Nf4Weight

_VALUES, _WARPS = 4096, 4  # values of one program
_TYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@triton.jit
def _dequantise(
    PACKED, TABLE, ABSMAX, CODE, ABSMAX2, OFFSET, OUT, n, n_blocks, K, ld_out, nested_block,
    NESTED: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """BLOCKS blocks of BLOCK values. WHOLE: no block runs over the end of a row, so one division serves a block."""
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
    column = tl.arange(0, BLOCK)[None, :]
    if WHOLE:
        first = block * BLOCK
        place = (first // K * ld_out + first % K)[:, None] + column
        tl.store(OUT + place, values, mask=ok[:, None] & (column < BLOCK))
    else:
        at = block[:, None] * BLOCK + column
        tl.store(OUT + at // K * ld_out + at % K, values, mask=at < n)


def dequantise(weight: Nf4Weight, table: torch.Tensor, out_NK: torch.Tensor) -> None:
    """See ``dequantise_nf4``."""
    N, K = weight.shape
    n_blocks = -(-N * K // weight.block)
    nested = weight.nested
    code, absmax2, offset = (nested.code, nested.absmax, nested.offset) if nested else (table, table, table)
    blocks = max(1, _VALUES // weight.block)
    if n_blocks == 0:
        return
    _dequantise[(triton.cdiv(n_blocks, blocks),)](
        weight.packed, table, weight.absmax, code, absmax2, offset, out_NK,
        N * K, n_blocks, K, out_NK.stride(0), nested.block if nested else 1,
        NESTED=nested is not None, WHOLE=K % weight.block == 0, BLOCK=weight.block, BLOCKS=blocks,
        ROUND=_TYPES[weight.dtype], num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
