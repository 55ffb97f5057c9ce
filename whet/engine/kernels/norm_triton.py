# mypy: ignore-errors
"""RMSNorm on the GPU; ``norm`` says what is computed. Imports Triton: import it only to run a kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from whet.engine.kernels.launch import launch

# A program holds whole rows. Rows of one tile: wide rows alone, heads (128 channels) together.
TILE = 2048

# Where the weight is trained too, programs stay and loop over tiles, each with the sums of its rows in registers, as
# many numbers as a tile has. With 16 of them a thread takes 60 to 106 registers on sm_90 (ptxas 12.8, row strides that
# are multiples of 16), so that this many warps of a multiprocessor run at the same time. A thread spills at most 32
# bytes up to 16,384 channels, at most 256 up to 32,768.
SUMS_PER_WARP = 16 * 32
RESIDENT_WARPS = 16
MULTIPROCESSORS = 128  # where there is no device to ask


@triton.jit(do_not_specialize=["rows"])
def _forward(
    X,
    W,
    OUT,
    RSTD,
    rows,
    eps,
    offset,
    x_outer,
    x_inner,
    out_outer,
    out_inner,
    INNER: tl.constexpr,
    C: tl.constexpr,
    ONCE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    live = row < rows
    mask = live[:, None] & (c < C)[None, :]
    outer, inner = (row // INNER).to(tl.int64), row % INNER
    x = tl.load(X + (outer * x_outer + inner * x_inner)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    w = tl.load(W + c, mask=c < C, other=0.0).to(tl.float32) + offset
    rstd = 1.0 / tl.sqrt(tl.sum(x * x, 1) / C + eps)
    normed = x * rstd[:, None]
    if not ONCE:
        normed = normed.to(X.dtype.element_ty).to(tl.float32)
    y = (normed * w[None, :]).to(OUT.dtype.element_ty)
    tl.store(OUT + (outer * out_outer + inner * out_inner)[:, None] + c[None, :], y, mask=mask)
    tl.store(RSTD + row, rstd, mask=live)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    DY,
    X,
    W,
    RSTD,
    RES,
    OUT,
    rows,
    offset,
    dy_outer,
    dy_inner,
    x_outer,
    x_inner,
    res_outer,
    res_inner,
    out_outer,
    out_inner,
    INNER: tl.constexpr,
    C: tl.constexpr,
    HAS_RES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    live = row < rows
    mask = live[:, None] & (c < C)[None, :]
    outer, inner = (row // INNER).to(tl.int64), row % INNER
    x = tl.load(X + (outer * x_outer + inner * x_inner)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(DY + (outer * dy_outer + inner * dy_inner)[:, None] + c[None, :], mask=mask, other=0.0)
    w = tl.load(W + c, mask=c < C, other=0.0).to(tl.float32) + offset
    rstd = tl.load(RSTD + row, mask=live, other=0.0)[:, None]
    normed = x * rstd
    grad = dy.to(tl.float32) * w[None, :]
    dx = rstd * (grad - normed * (tl.sum(grad * normed, 1) / C)[:, None])
    if HAS_RES:
        at = (outer * res_outer + inner * res_inner)[:, None] + c[None, :]
        dx += tl.load(RES + at, mask=mask, other=0.0).to(tl.float32)
    at = (outer * out_outer + inner * out_inner)[:, None] + c[None, :]
    tl.store(OUT + at, dx.to(OUT.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _backward_trained(
    DY,
    X,
    W,
    RSTD,
    RES,
    OUT,
    PARTIAL,
    rows,
    offset,
    dy_outer,
    dy_inner,
    x_outer,
    x_inner,
    res_outer,
    res_inner,
    out_outer,
    out_inner,
    INNER: tl.constexpr,
    C: tl.constexpr,
    HAS_RES: tl.constexpr,
    ONCE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``_backward`` over every so many tiles; PARTIAL (programs, C) gets the sums over this program's rows."""
    c = tl.arange(0, BLOCK)
    dw = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        live = row < rows
        mask = live[:, None] & (c < C)[None, :]
        outer, inner = (row // INNER).to(tl.int64), row % INNER
        x = tl.load(X + (outer * x_outer + inner * x_inner)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(DY + (outer * dy_outer + inner * dy_inner)[:, None] + c[None, :], mask=mask, other=0.0)
        dy = dy.to(tl.float32)
        w = tl.load(W + c, mask=c < C, other=0.0).to(tl.float32) + offset  # from the cache: saves registers
        rstd = tl.load(RSTD + row, mask=live, other=0.0)[:, None]
        normed = x * rstd
        if ONCE:
            dw += dy * normed
        else:
            dw += dy * normed.to(X.dtype.element_ty).to(tl.float32)
        grad = dy * w[None, :]
        dx = rstd * (grad - normed * (tl.sum(grad * normed, 1) / C)[:, None])
        if HAS_RES:
            at = (outer * res_outer + inner * res_inner)[:, None] + c[None, :]
            dx += tl.load(RES + at, mask=mask, other=0.0).to(tl.float32)
        at = (outer * out_outer + inner * out_inner)[:, None] + c[None, :]
        tl.store(OUT + at, dx.to(OUT.dtype.element_ty), mask=mask)
    tl.store(PARTIAL + tl.program_id(0) * C + c, tl.sum(dw, 0), mask=c < C)


def _tile(x: torch.Tensor) -> tuple[int, tuple[int], dict[str, int]]:
    """Rows in all, the grid, and the tile's constants."""
    outer, inner, channels = x.shape
    block = triton.next_power_of_2(channels)
    rows = max(1, TILE // block)
    warps = 16 if block > 8192 else 8 if block > TILE else 4
    constants = {"INNER": inner, "C": channels, "ROWS": rows, "BLOCK": block, "num_warps": warps}
    return outer * inner, (triton.cdiv(outer * inner, rows),), constants


def forward(
    x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, out: torch.Tensor, rstd: torch.Tensor
) -> None:
    """x, out: (outer, inner, C); rstd: outer * inner elements, contiguous."""
    rows, grid, constants = _tile(x)
    strides = (x.stride(0), x.stride(1), out.stride(0), out.stride(1))
    launch(_forward, grid, x, weight, out, rstd, rows, eps, float(offset), *strides, ONCE=offset != 0, **constants)


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    offset: float,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    dweight: torch.Tensor | None = None,
) -> None:
    """dy, x, residual, out: (outer, inner, C); dweight: (C,) float32, added to."""
    rows, grid, constants = _tile(x)
    res = dy if residual is None else residual
    strides = [stride for tensor in (dy, x, res, out) for stride in tensor.stride()[:2]]
    tensors = (dy, x, weight, rstd, res, out)
    constants["HAS_RES"] = residual is not None
    if dweight is None:
        launch(_backward, grid, *tensors, rows, float(offset), *strides, **constants)
        return
    warps = min(32, max(4, constants["ROWS"] * constants["BLOCK"] // SUMS_PER_WARP))
    programs = min(*grid, _multiprocessors(x) * max(1, RESIDENT_WARPS // warps))
    partial_PC = torch.empty((programs, x.shape[2]), dtype=torch.float32, device=x.device)
    constants |= {"ONCE": offset != 0, "num_warps": warps}
    launch(_backward_trained, (programs,), *tensors, partial_PC, rows, float(offset), *strides, **constants)
    dweight += partial_PC.sum(0)


def _multiprocessors(x: torch.Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else MULTIPROCESSORS
