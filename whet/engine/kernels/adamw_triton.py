# mypy: ignore-errors
"""AdamW over masters in two halves on the GPU; ``adamw`` says what is computed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from whet.engine.kernels.adamw import AdamW
from whet.engine.kernels.launch import launch

BLOCK = 1024  # elements of a program of 4 warps: 8 a thread, 16 bytes of each half
NAN = tl.constexpr(0x7FC0)  # a bfloat16 that is none
LARGEST_LOW = tl.constexpr(2**15 - 1)


@triton.jit
def _halves(master):
    """The bits of the nearest bfloat16, to even between two, and what is left; as ``adamw.split_``."""
    bits = master.to(tl.int32, bitcast=True)
    high = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    low = tl.minimum(bits - (high << 16), LARGEST_LOW)
    good = master == master
    return tl.where(good, high, NAN), tl.where(good, low, 0)


@triton.jit
def _adamw(
    W, LOW, G, M, V, FACTOR, count, decay, fresh, beta2, fresh2, rate, scale, eps,
    HALVES: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    g = tl.load(G + i, mask=mask, other=0.0).to(tl.float32)
    if SCALED:
        g = g * tl.load(FACTOR)
    if HALVES:
        bits = (tl.load(W + i, mask=mask, other=0).to(tl.int32) << 16) + tl.load(LOW + i, mask=mask, other=0)
        w = bits.to(tl.float32, bitcast=True)
    else:
        w = tl.load(W + i, mask=mask, other=0.0)
    m = tl.load(M + i, mask=mask, other=0.0)
    v = tl.load(V + i, mask=mask, other=0.0)
    m = m + (g - m) * fresh
    v = v * beta2 + fresh2 * g * g
    # the approximate root and quotient would not be torch's; this kernel waits for memory anyway
    w = w - (decay * w + rate * tl.div_rn(m, tl.sqrt_rn(v) * scale + eps))
    tl.store(M + i, m, mask=mask)
    tl.store(V + i, v, mask=mask)
    if HALVES:
        high, low = _halves(w)
        tl.store(W + i, high.to(tl.int16), mask=mask)
        tl.store(LOW + i, low.to(tl.int16), mask=mask)
    else:
        tl.store(W + i, w, mask=mask)


def run(
    weights_N: torch.Tensor,
    low_N: torch.Tensor | None,
    gradient_N: torch.Tensor,
    mean_N: torch.Tensor,
    square_N: torch.Tensor,
    settings: AdamW,
    factor: torch.Tensor | None,
) -> None:
    """As ``adamw.adamw_``, for bfloat16 and float32 weights."""
    count = weights_N.numel()
    weights = weights_N if low_N is None else weights_N.view(torch.int16)
    # an absent tensor's place is taken by another one, which is not read
    tensors = (weights, weights if low_N is None else low_N, gradient_N, mean_N, square_N)
    factor_or_not = mean_N if factor is None else factor
    constants = {"HALVES": low_N is not None, "SCALED": factor is not None, "BLOCK": BLOCK, "num_warps": 4}
    with torch.cuda.device_of(weights_N):
        launch(
            _adamw, (triton.cdiv(count, BLOCK),), *tensors, factor_or_not, count, *map(float, settings.numbers()),
            float(settings.eps), **constants,
        )  # fmt: skip
