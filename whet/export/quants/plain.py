"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights with a float16 scale, and in ``_1`` a float16 minimum.

The formats are ggml's (``ggml-common.h``). Without an importance matrix the grid simply spans the block, as in ggml.
"""

from __future__ import annotations

import torch

from whet.export.quants.chunks import Blocks
from whet.export.quants.pack import bits, float16_bytes, nibbles
from whet.export.quants.search import Grids, divide, fit_scale_and_minimum, fit_signed_scale, peak


def encode_q8_0(blocks: Blocks) -> torch.Tensor:
    """[32, N] weights as [34, N] bytes."""
    x_BN = blocks.x_BN
    scale_1N = peak(x_BN, 0).abs() / 127
    scaled_BN = x_BN * divide(torch.ones_like(scale_1N), scale_1N)
    half_BN = torch.full_like(scaled_BN, 0.5).copysign_(scaled_BN)  # ggml rounds halves away from zero here
    level_BN = scaled_BN.add_(half_BN).trunc_().to(torch.int8)
    return torch.cat([float16_bytes(scale_1N), level_BN.view(torch.uint8)])


def encode_q4_0(blocks: Blocks) -> torch.Tensor:
    """[32, N] weights as [18, N] bytes."""
    scale_1N, level_BN = _signed(blocks, 8)
    return torch.cat([float16_bytes(scale_1N), _pairs(level_BN)])


def encode_q5_0(blocks: Blocks) -> torch.Tensor:
    """[32, N] weights as [22, N] bytes."""
    scale_1N, level_BN = _signed(blocks, 16)
    return torch.cat([float16_bytes(scale_1N), _fifth_bits(level_BN), _pairs(level_BN & 15)])


def encode_q4_1(blocks: Blocks) -> torch.Tensor:
    """[32, N] weights as [20, N] bytes."""
    scale_1N, low_1N, level_BN = _with_minimum(blocks, 15)
    return torch.cat([float16_bytes(scale_1N), float16_bytes(low_1N), _pairs(level_BN)])


def encode_q5_1(blocks: Blocks) -> torch.Tensor:
    """[32, N] weights as [24, N] bytes."""
    scale_1N, low_1N, level_BN = _with_minimum(blocks, 31)
    factors = [float16_bytes(scale_1N), float16_bytes(low_1N)]
    return torch.cat([*factors, _fifth_bits(level_BN), _pairs(level_BN & 15)])


def _signed(blocks: Blocks, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A scale for each block [1, N] and levels 0..2 levels - 1 for ``scale * (level - levels)``."""
    x_BN = blocks.x_BN
    if blocks.importance_BN is None:
        scale_1N = peak(x_BN, 0) / -levels
    else:
        importance_1BN = blocks.weighted(blocks.row_square_N)[None]
        scale_1N = fit_signed_scale(x_BN[None], importance_1BN, Grids(levels, -0.8, 0.2, 9, 1))
    inverse_1N = divide(torch.ones_like(scale_1N), scale_1N)
    level_BN = (x_BN * inverse_1N).add_(levels + 0.5).floor_().clamp_(0, 2 * levels - 1)
    return scale_1N, level_BN.to(torch.uint8)


def _with_minimum(blocks: Blocks, levels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x_BN = blocks.x_BN
    if blocks.importance_BN is None:
        low_1N = x_BN.amin(0, keepdim=True)
        scale_1N = (x_BN.amax(0, keepdim=True) - low_1N) / levels
    else:
        importance_1BN = blocks.weighted(blocks.row_square_N)[None]
        scale_1N, offset_1N = fit_scale_and_minimum(x_BN[None], importance_1BN, Grids(levels, -1.5, 0.3, 10, 2))
        low_1N = -offset_1N
    inverse_1N = divide(torch.ones_like(scale_1N), scale_1N)
    level_BN = ((x_BN - low_1N) * inverse_1N).add_(0.5).floor_().clamp_(0, levels)
    return scale_1N, low_1N, level_BN.to(torch.uint8)


def _pairs(level_BN: torch.Tensor) -> torch.Tensor:
    """The first sixteen in the low halves, the last sixteen in the high ones."""
    return nibbles(level_BN[:16], level_BN[16:])


def _fifth_bits(level_BN: torch.Tensor) -> torch.Tensor:
    return bits((level_BN >> 4).reshape(4, 8, -1).transpose(0, 1))
