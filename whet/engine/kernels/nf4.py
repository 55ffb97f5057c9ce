"""NF4 weights to floating point: bitsandbytes' storage, bit by bit what its ``dequantize_4bit`` gives.

A weight of N x K values is cut, row after row, into blocks of 64. A value is ``NF4[q] * absmax[block]``, computed in
float32 and rounded once to the weight's dtype; q has four bits, two values in a byte, the first one in the high half.
With double quantisation the absmax is 8-bit itself: ``code[absmax[b]] * nested.absmax[b // 256] + nested.offset``, each
operation rounded to float32 (a fused multiply-add would differ in the last bit).

Sources: Dettmers et al., QLoRA (arXiv 2305.14314), section 3; bitsandbytes 0.50, functional.py, ``dequantize_4bit``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from whet.engine.kernels.dispatch import uses_triton

BLOCK, NESTED_BLOCK = 64, 256  # values of one absmax; absmax values of one second absmax
_CHUNK = 1 << 18  # values the plain form makes at once: its float32 copies stay in the cache

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@dataclass(frozen=True)
class NestedAbsmax:
    """What an 8-bit absmax stands for."""

    code: torch.Tensor  # (256,) float32
    absmax: torch.Tensor  # (ceil(blocks / block),) float32
    offset: torch.Tensor  # () float32
    block: int = NESTED_BLOCK


@dataclass(frozen=True)
class Nf4Weight:
    """References to a quantised weight's tensors; nothing is copied."""

    packed: torch.Tensor  # (ceil(N * K / 2),) uint8, the high half first
    absmax: torch.Tensor  # (ceil(N * K / block),) float32; uint8 with ``nested``
    shape: tuple[int, int]  # N outputs, K inputs
    dtype: torch.dtype  # values are rounded to it before anything else
    block: int = BLOCK
    nested: NestedAbsmax | None = None

    def tensors(self) -> list[torch.Tensor]:
        """Everything that holds the weight; for sizes and devices."""
        nested = self.nested
        return [self.packed, self.absmax, *([nested.code, nested.absmax, nested.offset] if nested else [])]


def dequantise_nf4(weight: Nf4Weight, out_NK: torch.Tensor) -> None:
    """Write the weight's values into ``out_NK``.

    Args:
        weight: on the same device.
        out_NK: any float dtype; rows may be strided (a view of a wider buffer), values within a row not. Values are
            rounded to ``weight.dtype`` first, as bitsandbytes does, then to ``out_NK.dtype``.

    Raises:
        ValueError: another shape, or values of a row that are not side by side.
    """
    if tuple(out_NK.shape) != weight.shape or out_NK.stride(1) != 1:
        raise ValueError(
            f"dequantise_nf4: out is {tuple(out_NK.shape)} with strides {out_NK.stride()}; "
            f"needed: {weight.shape}, the last stride 1"
        )
    if uses_triton(out_NK):
        from whet.engine.kernels import nf4_triton

        nf4_triton.dequantise(weight, table(out_NK.device), out_NK)
    else:
        dequantise_nf4_plain(weight, out_NK)


def dequantise_nf4_plain(weight: Nf4Weight, out_NK: torch.Tensor) -> None:
    """The plain twin of the kernel; the CPU path."""
    N, K = weight.shape
    whole = K % weight.block == 0  # no block runs over the end of a row
    step = max(1, _CHUNK // K) if whole else N
    pairs = _pairs(out_NK.device)
    for start in range(0, N, step):
        rows = min(step, N - start)
        first, count = start * K, rows * K
        packed = weight.packed[first // 2 : (first + count + 1) // 2] if whole else weight.packed
        absmax = _absmax(weight, first // weight.block, -(-count // weight.block))
        values = pairs.index_select(0, packed.int()).flatten()[:count]
        if whole:
            values = values.view(-1, weight.block).mul_(absmax[:, None])
        else:
            values = values * absmax.repeat_interleave(weight.block)[:count]
        out_NK[start : start + rows] = values.view(rows, K).to(weight.dtype)


def _absmax(weight: Nf4Weight, start: int, count: int) -> torch.Tensor:
    """float32 absmax of ``count`` blocks from ``start``."""
    absmax, nested = weight.absmax[start : start + count], weight.nested
    if nested is None:
        return absmax
    groups = torch.arange(start, start + count, device=absmax.device) // nested.block
    return nested.code[absmax.int()] * nested.absmax[groups] + nested.offset


@functools.cache
def table(device: torch.device) -> torch.Tensor:
    """The 16 values, float32."""
    return torch.tensor(NF4, dtype=torch.float32, device=device)


@functools.cache
def _pairs(device: torch.device) -> torch.Tensor:
    """(256, 2) float32: both values of a byte."""
    values = table(device)
    return torch.cartesian_prod(values, values)
