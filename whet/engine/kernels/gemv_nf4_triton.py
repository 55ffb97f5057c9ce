# mypy: ignore-errors
"""Products with few rows on the GPU, NF4 weights; ``gemv`` and ``nf4`` say what is computed. Imports Triton.

A word of 4 packed bytes holds 8 values of one block. With one row of x, a word's 8 products are added first and
multiplied by the block's absmax once; the weight is not rounded on the way. With more rows the values are rounded to
x's dtype, as bitsandbytes does, and go through the tensor cores.
"""

from __future__ import annotations

import triton
import triton.language as tl

from whet.engine.kernels.gemv_triton import Tiling, adapters_of, batch_of, epilogue, fitted
from whet.engine.kernels.nf4 import table

ONE = Tiling(8, 1024, 4)
MOST = (
    32  # rows of x in a launch: with 64 Triton 3.6 takes Hopper's own products, and cannot lay out the values for them
)
MANY = Tiling(16, 256, 4)  # one stage: Triton would copy each look-up of the table by itself ahead of time


@triton.jit
def _absmax(ABSMAX, CODE, ABSMAX2, offset, block, mask, NESTED: tl.constexpr, NESTED_BLOCK: tl.constexpr):
    if NESTED:
        q = tl.load(ABSMAX + block, mask=mask, other=0).to(tl.int32)
        absmax = tl.load(CODE + q) * tl.load(ABSMAX2 + block // NESTED_BLOCK, mask=mask, other=0.0) + offset
    else:
        absmax = tl.load(ABSMAX + block, mask=mask, other=0.0)
    return absmax


@triton.jit
def _product(TABLE, packed, at, inside, NTH: tl.constexpr, SHIFT: tl.constexpr):
    """The NTH value of each word, of those at SHIFT bits, times its input."""
    x = tl.load(at + NTH, mask=inside, other=0.0).to(tl.float32)
    return tl.load(TABLE + ((packed >> SHIFT) & 15)) * x[None, :, :]


@triton.jit
def _one_tile(
    X, PACKED, ABSMAX, CODE, ABSMAX2, OFFSET, TABLE, tile, N, K,
    NESTED: tl.constexpr, NESTED_BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    BLOCKS: tl.constexpr = COLUMNS // 64
    n = tile * ROWS + tl.arange(0, ROWS)
    row = n.to(tl.int64) * (K // 64)
    offset = tl.load(OFFSET) if NESTED else 0.0
    words = PACKED.to(tl.pointer_type(tl.int32), bitcast=True)
    acc = tl.zeros((ROWS, BLOCKS, 8), tl.float32)
    eight = tl.arange(0, 8)
    for start in range(0, K // 64, BLOCKS):
        b = start + tl.arange(0, BLOCKS)
        live = (n < N)[:, None] & (b < K // 64)[None, :]
        block = row[:, None] + b[None, :]
        packed = tl.load(words + (block * 8)[:, :, None] + eight[None, None, :], mask=live[:, :, None], other=0)
        at = X + (b * 64)[:, None] + (eight * 8)[None, :]
        inside = (b < K // 64)[:, None] & (eight < 8)[None, :]
        part = _product(TABLE, packed, at, inside, 0, 4)  # the high half of a byte comes first
        part += _product(TABLE, packed, at, inside, 1, 0)
        part += _product(TABLE, packed, at, inside, 2, 12)
        part += _product(TABLE, packed, at, inside, 3, 8)
        part += _product(TABLE, packed, at, inside, 4, 20)
        part += _product(TABLE, packed, at, inside, 5, 16)
        part += _product(TABLE, packed, at, inside, 6, 28)
        part += _product(TABLE, packed, at, inside, 7, 24)
        absmax = _absmax(ABSMAX, CODE, ABSMAX2, offset, block, live, NESTED, NESTED_BLOCK)
        acc += part * absmax[:, :, None]
    return n, tl.sum(tl.sum(acc, 2), 1)[None, :]


@triton.jit
def _many_tile(
    X, PACKED, ABSMAX, CODE, ABSMAX2, OFFSET, TABLE, tile, M, N, K, ld_x,
    NESTED: tl.constexpr, NESTED_BLOCK: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    n = tile * ROWS + tl.arange(0, ROWS)
    m = tl.arange(0, BATCH)
    row = n.to(tl.int64)
    offset = tl.load(OFFSET) if NESTED else 0.0
    words = PACKED.to(tl.pointer_type(tl.int32), bitcast=True) + (row * (K // 8))[:, None]
    X += m[:, None] * ld_x
    acc = tl.zeros((BATCH, ROWS), tl.float32)
    lane = tl.arange(0, COLUMNS // 8)
    next_w = tl.load(words + lane[None, :], mask=(n < N)[:, None] & (lane < K // 8)[None, :], other=0)
    for start in range(0, K // 8, COLUMNS // 8):
        word = start + lane
        live = (n < N)[:, None] & (word < K // 8)[None, :]
        w = next_w
        ahead = word + COLUMNS // 8  # asked for before this piece is worked on
        next_w = tl.load(words + ahead[None, :], mask=(n < N)[:, None] & (ahead < K // 8)[None, :], other=0)
        block = (row * (K // 64))[:, None] + (word // 8)[None, :]
        a = _absmax(ABSMAX, CODE, ABSMAX2, offset, block, live, NESTED, NESTED_BLOCK)
        v0 = (tl.load(TABLE + ((w >> 4) & 15)) * a).to(X.dtype.element_ty)
        v1 = (tl.load(TABLE + (w & 15)) * a).to(X.dtype.element_ty)
        v2 = (tl.load(TABLE + ((w >> 12) & 15)) * a).to(X.dtype.element_ty)
        v3 = (tl.load(TABLE + ((w >> 8) & 15)) * a).to(X.dtype.element_ty)
        v4 = (tl.load(TABLE + ((w >> 20) & 15)) * a).to(X.dtype.element_ty)
        v5 = (tl.load(TABLE + ((w >> 16) & 15)) * a).to(X.dtype.element_ty)
        v6 = (tl.load(TABLE + ((w >> 28) & 15)) * a).to(X.dtype.element_ty)
        v7 = (tl.load(TABLE + ((w >> 24) & 15)) * a).to(X.dtype.element_ty)
        even = tl.interleave(tl.interleave(v0, v4), tl.interleave(v2, v6))
        odd = tl.interleave(tl.interleave(v1, v5), tl.interleave(v3, v7))
        k = start * 8 + tl.arange(0, COLUMNS)
        x = tl.load(X + k[None, :], mask=(m < M)[:, None] & (k < K)[None, :], other=0.0)
        acc = tl.dot(x, tl.trans(tl.interleave(even, odd)), acc, input_precision="ieee")
    return n, acc


@triton.jit
def _tile_of(
    X, PACKED, ABSMAX, CODE, ABSMAX2, OFFSET, TABLE, OUT, ADD, BIAS, B, P, scale, tile, M, N, K, rank,
    ld_x, ld_out, ld_add, ld_b, ld_p,
    NESTED: tl.constexpr, NESTED_BLOCK: tl.constexpr, HAS_ADD: tl.constexpr, HAS_BIAS: tl.constexpr,
    RANK: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    if BATCH == 1:
        n, acc = _one_tile(
            X, PACKED, ABSMAX, CODE, ABSMAX2, OFFSET, TABLE, tile, N, K, NESTED, NESTED_BLOCK, ROWS, COLUMNS
        )
    else:
        n, acc = _many_tile(
            X, PACKED, ABSMAX, CODE, ABSMAX2, OFFSET, TABLE, tile, M, N, K, ld_x, NESTED, NESTED_BLOCK, BATCH, ROWS,
            COLUMNS,
        )  # fmt: skip
    m = tl.arange(0, BATCH)
    epilogue(acc, OUT, ADD, BIAS, B, P, scale, m, n, M, N, rank, ld_out, ld_add, ld_b, ld_p, HAS_ADD, HAS_BIAS, RANK)


@triton.jit
def _project(
    X, PACKED0, PACKED1, PACKED2, ABSMAX0, ABSMAX1, ABSMAX2, CODE0, CODE1, CODE2, SECOND0, SECOND1, SECOND2,
    OFFSET0, OFFSET1, OFFSET2, TABLE, OUT, ADD, BIAS0, BIAS1, BIAS2, B0, B1, B2, P,
    scale0, scale1, scale2, M, N0, N1, N2, K, rank0, rank1, rank2, column0, column1, column2,
    ld_x, ld_out, ld_add, ld_b0, ld_b1, ld_b2, ld_p,
    COUNT: tl.constexpr, NESTED: tl.constexpr, NESTED_BLOCK: tl.constexpr, HAS_ADD: tl.constexpr,
    BIAS_0: tl.constexpr, BIAS_1: tl.constexpr, BIAS_2: tl.constexpr,
    RANK_0: tl.constexpr, RANK_1: tl.constexpr, RANK_2: tl.constexpr, BATCH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    first = tl.cdiv(N0, ROWS)
    second = first + tl.cdiv(N1, ROWS)
    if tile < first:
        _tile_of(
            X, PACKED0, ABSMAX0, CODE0, SECOND0, OFFSET0, TABLE, OUT, ADD, BIAS0, B0, P + column0, scale0, tile,
            M, N0, K, rank0, ld_x, ld_out, ld_add, ld_b0, ld_p,
            NESTED, NESTED_BLOCK, HAS_ADD, BIAS_0, RANK_0, BATCH, ROWS, COLUMNS,
        )  # fmt: skip
    elif tile < second:
        if COUNT > 1:
            _tile_of(
                X, PACKED1, ABSMAX1, CODE1, SECOND1, OFFSET1, TABLE, OUT + N0, ADD + N0, BIAS1, B1, P + column1,
                scale1, tile - first, M, N1, K, rank1, ld_x, ld_out, ld_add, ld_b1, ld_p,
                NESTED, NESTED_BLOCK, HAS_ADD, BIAS_1, RANK_1, BATCH, ROWS, COLUMNS,
            )  # fmt: skip
    else:
        if COUNT > 2:
            _tile_of(
                X, PACKED2, ABSMAX2, CODE2, SECOND2, OFFSET2, TABLE, OUT + N0 + N1, ADD + N0 + N1, BIAS2, B2,
                P + column2, scale2, tile - second, M, N2, K, rank2, ld_x, ld_out, ld_add, ld_b2, ld_p,
                NESTED, NESTED_BLOCK, HAS_ADD, BIAS_2, RANK_2, BATCH, ROWS, COLUMNS,
            )  # fmt: skip


def project(x_MK, weights, out_MN, p_MR=None, add_MN=None, tiling: Tiling | None = None) -> None:
    """As ``gemv.project``; weights that ``gemv.fits`` takes, all with double quantisation or all without."""
    for start in range(0, len(x_MK), MOST):
        rows = slice(start, start + MOST)
        p_NR, add_NN = (None if t is None else t[rows] for t in (p_MR, add_MN))
        _project_rows(x_MK[rows], weights, out_MN[rows], p_NR, add_NN, tiling)


def _project_rows(x_MK, weights, out_MN, p_MR, add_MN, tiling: Tiling | None) -> None:
    M, K = x_MK.shape
    batch = batch_of(M)
    if tiling is None:
        tiling = ONE if batch == 1 else MANY
    batch = max(batch, tiling.batch)
    if batch > 1:
        tiling = fitted(tiling, batch, x_MK.element_size(), x_MK.device)
    w = [weight.w_NK for weight in weights]
    three = [*w, *[w[0]] * (3 - len(w))]
    n = [*(t.shape[0] for t in w), 0, 0][:3]
    values = table(x_MK.device)
    nested = [t.nested for t in three]
    columns = [
        [values if second is None else getattr(second, name) for second in nested]
        for name in ("code", "absmax", "offset")
    ]
    p = out_MN if p_MR is None else p_MR
    add = out_MN if add_MN is None else add_MN
    small = adapters_of(weights, x_MK)
    blocks = small.blocks
    grid = (sum(triton.cdiv(count, tiling.rows) for count in n),)
    _project[grid](
        x_MK, *(t.packed for t in three), *(t.absmax for t in three), *columns[0], *columns[1], *columns[2], values,
        out_MN, add, *small.bias, *small.b, p, *small.scale, M, *n, K, *small.rank, *small.column,
        x_MK.stride(0), out_MN.stride(0), add.stride(0), *(t.stride(0) for t in small.b), p.stride(0),
        COUNT=len(w), NESTED=nested[0] is not None, NESTED_BLOCK=nested[0].block if nested[0] else 1,
        HAS_ADD=add_MN is not None,
        BIAS_0=small.has_bias[0], BIAS_1=small.has_bias[1], BIAS_2=small.has_bias[2],
        RANK_0=blocks[0], RANK_1=blocks[1], RANK_2=blocks[2], BATCH=batch,
        ROWS=tiling.rows, COLUMNS=tiling.columns, num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
