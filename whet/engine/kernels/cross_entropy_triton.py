# mypy: ignore-errors
"""The Triton kernels of cross_entropy.py, which imports this file when a GPU tensor comes. The twins there
specify them.

One H200, 128,256 columns: 3,480 GB/s over three passes (two reads, one write; a copy reaches 4,260).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from whet.engine.kernels.launch import launch

_COLUMNS, _WARPS = 8192, 16  # columns of one step
_SLICE_COLUMNS, _SLICE_WARPS = 2048, 8  # of one program: 8 bfloat16 (16 bytes) a thread


@triton.jit
def _capped(x, softcap, CAPPED: tl.constexpr):
    """x as float32, capped. tanh(a) = 1 - 2 / (exp(2a) + 1): right at both infinities."""
    z = x.to(tl.float32)
    if CAPPED:
        z = softcap * (1 - 2 / (tl.exp(2 * z / softcap) + 1))
    return z


@triton.jit
def _rows(
    Z, TARGET, LOSS, SCALE, LSE, ld, V, softcap, scale,
    CAPPED: tl.constexpr, SCALES: tl.constexpr, KEEPS: tl.constexpr, GRADIENT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One row. The target's logit is read before the first pass: its reductions stand between that and the writes."""
    row = tl.program_id(0).to(tl.int64)
    Z += row * ld
    target = tl.load(TARGET + row)
    right = _capped(tl.load(Z + target, mask=(target >= 0) & (target < V), other=float("nan")), softcap, CAPPED)
    top = -1e30  # finite: exp(top - top) is 1 also where a whole step is -inf
    total = 0.0
    for start in range(0, V, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        z = _capped(tl.load(Z + column, mask=column < V, other=0.0), softcap, CAPPED)
        z = tl.where(column < V, z, -float("inf"))
        new = tl.maximum(top, tl.max(z, 0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(z - new), 0)
        top = new
    lse = top + tl.log(total)
    tl.store(LOSS + row, tl.where(target < 0, 0.0, lse - right))
    if KEEPS:
        tl.store(LSE + row, lse)
    if GRADIENT:
        if SCALES:
            scale = tl.load(SCALE + row).to(tl.float32)
        for start in range(0, V, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            z = _capped(tl.load(Z + column, mask=column < V, other=0.0), softcap, CAPPED)
            gradient = (tl.exp(z - lse) - tl.where(column == target, 1.0, 0.0)) * scale
            if CAPPED:
                gradient *= 1 - (z / softcap) * (z / softcap)
            gradient = tl.where(target < 0, 0.0, gradient)
            tl.store(Z + column, gradient.to(Z.dtype.element_ty), mask=column < V)


@triton.jit
def _slice(Z, TARGET, LSE, ld, width, first, softcap, CAPPED: tl.constexpr, COLUMNS: tl.constexpr):
    """Some columns of one row; ``first`` is the vocabulary's number of the slice's first column."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    target = tl.load(TARGET + row)
    lse = tl.load(LSE + row)
    z = _capped(tl.load(Z + row * ld + column, mask=column < width, other=0.0), softcap, CAPPED)
    gradient = tl.exp(z - lse) - tl.where(column + first == target, 1.0, 0.0)
    if CAPPED:
        gradient *= 1 - (z / softcap) * (z / softcap)
    gradient = tl.where(target < 0, 0.0, gradient)
    tl.store(Z + row * ld + column, gradient.to(Z.dtype.element_ty), mask=column < width)


def rows(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    softcap: float | None,
    scale: float | torch.Tensor | None,
    gradient: bool,
    lse_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """See ``cross_entropy_rows_`` and ``cross_entropy_rows``."""
    N, V = logits_NV.shape
    loss_N = torch.empty(N, dtype=torch.float32, device=logits_NV.device)
    if N == 0:
        return loss_N
    scales = isinstance(scale, torch.Tensor)
    launch(
        _rows, (N,),
        logits_NV, targets_N.contiguous(), loss_N, scale.contiguous() if scales else loss_N,
        loss_N if lse_N is None else lse_N, logits_NV.stride(0), V,
        1.0 if softcap is None else float(softcap), 1.0 if scale is None or scales else float(scale),
        CAPPED=softcap is not None, SCALES=scales, KEEPS=lse_N is not None, GRADIENT=gradient,
        COLUMNS=min(_COLUMNS, triton.next_power_of_2(V)), num_warps=_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return loss_N


def slice_(
    logits_Nv: torch.Tensor, targets_N: torch.Tensor, lse_N: torch.Tensor, first: int, softcap: float | None
) -> None:
    """See ``cross_entropy_slice_``."""
    N, width = logits_Nv.shape
    if N == 0:
        return
    launch(
        _slice, (N, triton.cdiv(width, _SLICE_COLUMNS)),
        logits_Nv, targets_N.contiguous(), lse_N.contiguous(), logits_Nv.stride(0), width, first,
        1.0 if softcap is None else float(softcap),
        CAPPED=softcap is not None, COLUMNS=_SLICE_COLUMNS, num_warps=_SLICE_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
