# mypy: ignore-errors
"""Products with few rows on the GPU, dense weights; ``gemv`` says what is computed. Imports Triton.

One row: every program multiplies a few rows of W by x in registers; the memory is kept busy by many small programs.
More rows: a program's tile of W goes through the tensor cores with all rows of x, padded to 16, 32 or 64. Either way a
row's sum is made in one order that does not depend on the other rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl


class Tiling(NamedTuple):
    """Rows of W, inputs at once, warps; loads in flight, and rows of x as the tensor cores take them: 16 for a single
    row too, 0: by the number of rows."""

    rows: int
    columns: int
    warps: int
    stages: int = 1
    batch: int = 0


# The best of benchmarks/decode_kernels.py on an H100: 2,600 to 3,200 GB/s of the data sheet's 3,350.
ONE = Tiling(1, 2048, 4)  # one row of x
MANY = Tiling(16, 256, 2, 4)  # 2 to 64 rows of x
DOWN = Tiling(1, 1024, 4)  # A of the adapters


@triton.jit
def epilogue(
    acc, OUT, ADD, BIAS, B, P, scale, m, n, M, N, rank, ld_out, ld_add, ld_b, ld_p,
    HAS_ADD: tl.constexpr, HAS_BIAS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Adapter, bias and residual onto acc (rows of x, rows of W), and into memory."""
    if RANK:
        r = tl.arange(0, RANK)
        b = tl.load(B + n[:, None] * ld_b + r[None, :], mask=(n < N)[:, None] & (r < rank)[None, :], other=0.0)
        p = tl.load(P + m[:, None] * ld_p + r[None, :], mask=(m < M)[:, None] & (r < rank)[None, :], other=0.0)
        if acc.shape[0] == 1:
            acc += tl.sum(p.to(tl.float32) * b.to(tl.float32), 1)[None, :] * scale
        else:
            acc += tl.dot(p.to(tl.float32), tl.trans(b.to(tl.float32)), input_precision="ieee") * scale
    mask = (m < M)[:, None] & (n < N)[None, :]
    if HAS_BIAS:
        acc += tl.load(BIAS + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if HAS_ADD:
        acc += tl.load(ADD + m[:, None] * ld_add + n[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(OUT + m[:, None] * ld_out + n[None, :], acc.to(OUT.dtype.element_ty), mask=mask)


@triton.jit
def _one_tile(X, W, tile, row, N, K, ld_x, ld_w, WHOLE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    n = tile * ROWS + tl.arange(0, ROWS)
    W += n.to(tl.int64)[:, None] * ld_w
    X += row * ld_x
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, K, COLUMNS):
        k = start + tl.arange(0, COLUMNS)
        if WHOLE:
            x = tl.load(X + k)
            w = tl.load(W + k[None, :], mask=(n < N)[:, None], other=0.0)
        else:
            x = tl.load(X + k, mask=k < K, other=0.0)
            w = tl.load(W + k[None, :], mask=(n < N)[:, None] & (k < K)[None, :], other=0.0)
        acc += w.to(tl.float32) * x.to(tl.float32)[None, :]
    return n, tl.sum(acc, 1)[None, :]


@triton.jit
def _many_tile(
    X, W, tile, M, N, K, ld_x, ld_w,
    WHOLE: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    n = tile * ROWS + tl.arange(0, ROWS)
    m = tl.arange(0, BATCH)
    W += n.to(tl.int64)[:, None] * ld_w
    X += m[:, None] * ld_x
    acc = tl.zeros((BATCH, ROWS), tl.float32)
    for start in range(0, K, COLUMNS):
        k = start + tl.arange(0, COLUMNS)
        if WHOLE:
            x = tl.load(X + k[None, :], mask=(m < M)[:, None], other=0.0)
            w = tl.load(W + k[None, :], mask=(n < N)[:, None], other=0.0)
        else:
            x = tl.load(X + k[None, :], mask=(m < M)[:, None] & (k < K)[None, :], other=0.0)
            w = tl.load(W + k[None, :], mask=(n < N)[:, None] & (k < K)[None, :], other=0.0)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    return n, acc


@triton.jit
def _tile_of(
    X, W, OUT, ADD, BIAS, B, P, scale, tile, M, N, K, rank, ld_x, ld_w, ld_out, ld_add, ld_b, ld_p,
    HAS_ADD: tl.constexpr, HAS_BIAS: tl.constexpr, RANK: tl.constexpr, WHOLE: tl.constexpr, BATCH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    if BATCH == 1:
        row = tl.program_id(1)
        n, acc = _one_tile(X, W, tile, row, N, K, ld_x, ld_w, WHOLE, ROWS, COLUMNS)
        m = row + tl.arange(0, 1)
    else:
        n, acc = _many_tile(X, W, tile, M, N, K, ld_x, ld_w, WHOLE, BATCH, ROWS, COLUMNS)
        m = tl.arange(0, BATCH)
    epilogue(acc, OUT, ADD, BIAS, B, P, scale, m, n, M, N, rank, ld_out, ld_add, ld_b, ld_p, HAS_ADD, HAS_BIAS, RANK)


@triton.jit
def _project(
    X, W0, W1, W2, OUT, ADD, BIAS0, BIAS1, BIAS2, B0, B1, B2, P,
    scale0, scale1, scale2, M, N0, N1, N2, K, rank0, rank1, rank2, column0, column1, column2,
    ld_x, ld_w0, ld_w1, ld_w2, ld_out, ld_add, ld_b0, ld_b1, ld_b2, ld_p,
    COUNT: tl.constexpr, HAS_ADD: tl.constexpr, BIAS_0: tl.constexpr, BIAS_1: tl.constexpr, BIAS_2: tl.constexpr,
    RANK_0: tl.constexpr, RANK_1: tl.constexpr, RANK_2: tl.constexpr, WHOLE: tl.constexpr, BATCH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    first = tl.cdiv(N0, ROWS)
    second = first + tl.cdiv(N1, ROWS)
    if tile < first:
        _tile_of(
            X, W0, OUT, ADD, BIAS0, B0, P + column0, scale0, tile, M, N0, K, rank0, ld_x, ld_w0, ld_out, ld_add,
            ld_b0, ld_p, HAS_ADD, BIAS_0, RANK_0, WHOLE, BATCH, ROWS, COLUMNS,
        )  # fmt: skip
    elif tile < second:
        if COUNT > 1:
            _tile_of(
                X, W1, OUT + N0, ADD + N0, BIAS1, B1, P + column1, scale1, tile - first, M, N1, K, rank1, ld_x, ld_w1,
                ld_out, ld_add, ld_b1, ld_p, HAS_ADD, BIAS_1, RANK_1, WHOLE, BATCH, ROWS, COLUMNS,
            )  # fmt: skip
    else:
        if COUNT > 2:
            _tile_of(
                X, W2, OUT + N0 + N1, ADD + N0 + N1, BIAS2, B2, P + column2, scale2, tile - second, M, N2, K, rank2,
                ld_x, ld_w2, ld_out, ld_add, ld_b2, ld_p, HAS_ADD, BIAS_2, RANK_2, WHOLE, BATCH, ROWS, COLUMNS,
            )  # fmt: skip


def batch_of(rows: int) -> int:
    """Rows of x that a launch computes: 1, or what the tensor cores take."""
    return 1 if rows == 1 else max(16, triton.next_power_of_2(rows))


@functools.cache
def _shared_memory(index: int) -> int:
    """Bytes that a program of a GPU can have."""
    return triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]


def fitted(tiling: Tiling, batch: int, itemsize: int, device: torch.device) -> Tiling:
    """The tiling with fewer loads in flight, or fewer inputs at once, where the GPU's shared memory asks for it.

    Triton takes up to twice the bytes of the tiles: the three weights of a launch do not share all of them.
    """
    room = _shared_memory(device.index or 0) if device.type == "cuda" else 1 << 20
    rows, columns, warps, stages, own = tiling
    while 2 * stages * (batch + rows) * columns * itemsize > room and (stages > 1 or columns > 32):
        stages, columns = (stages - 1, columns) if stages > 1 else (1, columns // 2)
    return Tiling(rows, columns, warps, stages, own)


class Adapters(NamedTuple):
    """The small operands of three weights, with stand-ins where there is none."""

    bias: list[torch.Tensor]
    has_bias: list[bool]
    b: list[torch.Tensor]
    scale: list[float]
    rank: list[int]
    column: list[int]

    @property
    def blocks(self) -> list[int]:
        """Ranks as the kernels unroll them; 0 without an adapter."""
        return [max(16, triton.next_power_of_2(rank)) if rank else 0 for rank in self.rank]


def adapters_of(weights: Sequence, unused: torch.Tensor) -> Adapters:
    three = [*weights, *[weights[0]] * (3 - len(weights))]
    return Adapters(
        bias=[unused if w.bias_N is None else w.bias_N for w in three],
        has_bias=[w.bias_N is not None for w in three],
        b=[unused if w.b_Nr is None else w.b_Nr for w in three],
        scale=[float(w.scale) for w in three],
        rank=[0 if w.b_Nr is None else w.b_Nr.shape[1] for w in three],
        column=[w.column for w in three],
    )


def _launch(x_MK, weights, out_MN, p_MR, add_MN, tiling: Tiling, batch: int) -> None:
    M, K = x_MK.shape
    w = [weight.w_NK for weight in weights]
    three = [*w, *[w[0]] * (3 - len(w))]
    n = [*(len(t) for t in w), 0, 0][:3]
    p = out_MN if p_MR is None else p_MR
    add = out_MN if add_MN is None else add_MN
    small = adapters_of(weights, x_MK)
    blocks = small.blocks
    grid = (sum(triton.cdiv(count, tiling.rows) for count in n), M if batch == 1 else 1)
    _project[grid](
        x_MK, *three, out_MN, add, *small.bias, *small.b, p, *small.scale, M, *n, K, *small.rank, *small.column,
        x_MK.stride(0), *(t.stride(0) for t in three), out_MN.stride(0), add.stride(0),
        *(t.stride(0) for t in small.b), p.stride(0),
        COUNT=len(w), HAS_ADD=add_MN is not None,
        BIAS_0=small.has_bias[0], BIAS_1=small.has_bias[1], BIAS_2=small.has_bias[2],
        RANK_0=blocks[0], RANK_1=blocks[1], RANK_2=blocks[2], WHOLE=K % tiling.columns == 0, BATCH=batch,
        ROWS=tiling.rows, COLUMNS=tiling.columns, num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip


def project(x_MK, weights, out_MN, p_MR=None, add_MN=None, tiling: Tiling | None = None) -> None:
    """As ``gemv.project``; weights have the dtype of x."""
    batch = batch_of(len(x_MK))
    if tiling is None:
        tiling = ONE if batch == 1 else MANY
    batch = max(batch, tiling.batch)
    if batch > 1:
        tiling = fitted(tiling, batch, x_MK.element_size(), x_MK.device)
    _launch(x_MK, weights, out_MN, p_MR, add_MN, tiling, batch)


def down(x_MK, downs, out_MR) -> None:
    """As ``gemv.down``: row after row."""
    from whet.engine.kernels.gemv import Weight

    _launch(x_MK, [Weight(a_rK) for a_rK in downs], out_MR, None, None, DOWN, 1)
