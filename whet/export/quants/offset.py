"""Q2_K, Q4_K, Q5_K: super-blocks of 256 weights whose sub-blocks have a scale and a minimum.

The formats are ggml's (``ggml-common.h``: block_q2_K, block_q4_K, block_q5_K). Scales and minimums are small integers
(4 bits in Q2_K, 6 bits else), with one float16 factor for each of the two in a super-block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whet.export.quants.chunks import Blocks
from whet.export.quants.pack import bits, crumbs, float16_bytes, nibbles, rounded, six_bit_pairs
from whet.export.quants.search import Grids, divide, fit_positive_integers, fit_scale_and_minimum

# The grids by number of levels, without and with an importance matrix (which makes the weights more uneven).
PLAIN = {3: Grids(3, -0.8, 0.4, 4, 2), 15: Grids(15, -1.0, 0.3, 6, 2), 31: Grids(31, -1.0, 0.4, 5, 1)}
WEIGHTED = {3: Grids(3, -0.9, 0.2, 10, 2), 15: Grids(15, -1.5, 0.3, 10, 2), 31: Grids(31, -1.5, 0.3, 10, 2)}


@dataclass(frozen=True)
class _Fit:
    """Integers of a chunk of super-blocks, as float32 without a fraction; the factors are float16 values."""

    level_SWN: torch.Tensor
    scale_SN: torch.Tensor
    offset_SN: torch.Tensor
    scale_factor_1N: torch.Tensor
    offset_factor_1N: torch.Tensor


def encode_q2_k(blocks: Blocks) -> torch.Tensor:
    """[256, N] weights as [84, N] bytes: 16 scales with minimums, 64 bytes of 2-bit levels, 2 factors."""
    fit = _fit(blocks, 16, 3, 15)
    level = fit.level_SWN.to(torch.uint8).reshape(2, 4, 32, -1)
    scales = nibbles(fit.scale_SN.to(torch.uint8), fit.offset_SN.to(torch.uint8))
    return torch.cat([scales, crumbs(level).reshape(64, -1), *_factors(fit)])


def encode_q4_k(blocks: Blocks) -> torch.Tensor:
    """[256, N] weights as [144, N] bytes: 2 factors, 12 bytes of scales with minimums, 128 bytes of 4-bit levels."""
    fit = _fit(blocks, 8, 15, 63)
    level = fit.level_SWN.to(torch.uint8)
    return torch.cat([*_factors(fit), six_bit_pairs(fit.scale_SN, fit.offset_SN), _pairs(level)])


def encode_q5_k(blocks: Blocks) -> torch.Tensor:
    """[256, N] weights as [176, N] bytes: as Q4_K, with 32 bytes of fifth bits before the levels."""
    fit = _fit(blocks, 8, 31, 63)
    level = fit.level_SWN.to(torch.uint8)
    packed = [six_bit_pairs(fit.scale_SN, fit.offset_SN), bits(level >> 4), _pairs(level & 15)]
    return torch.cat([*_factors(fit), *packed])


def _pairs(level_8WN: torch.Tensor) -> torch.Tensor:
    """Two sub-blocks share 32 bytes: low and high half."""
    return nibbles(level_8WN[0::2], level_8WN[1::2]).reshape(128, -1)


def _factors(fit: _Fit) -> list[torch.Tensor]:
    return [float16_bytes(fit.scale_factor_1N), float16_bytes(fit.offset_factor_1N)]


def _fit(blocks: Blocks, sub_blocks: int, levels: int, top: int) -> _Fit:
    """Levels 0..levels for the weights, integers 0..top for the scales and minimums of the sub-blocks."""
    x_SWN = blocks.split(blocks.x_BN, sub_blocks)
    if blocks.importance_BN is None:
        importance_SWN = _plain_importance(x_SWN)
    else:
        # ggml adds the mean square of the super-block once in Q2_K and twice in the others.
        share = 1.0 if levels == 3 else 2.0
        importance_SWN = blocks.split(blocks.weighted(share * blocks.x_BN.square().mean(0)), sub_blocks)
    grids = PLAIN if blocks.importance_BN is None else WEIGHTED
    fitted_scale_SN, fitted_offset_SN = fit_scale_and_minimum(x_SWN, importance_SWN, grids[levels])
    sum_SN = importance_SWN.sum(1)
    scale_factor, scale_SN = fit_positive_integers(fitted_scale_SN, sum_SN, top)
    offset_factor, offset_SN = fit_positive_integers(fitted_offset_SN, sum_SN, top)
    scale_factor, offset_factor = rounded(scale_factor), rounded(offset_factor)
    inverse_SN = divide(torch.ones_like(scale_SN), scale_factor * scale_SN)
    shift_SN = offset_factor * offset_SN * inverse_SN
    level_SWN = torch.addcmul(shift_SN[:, None], x_SWN, inverse_SN[:, None]).round_().clamp_(0, levels)
    return _Fit(level_SWN, scale_SN, offset_SN, scale_factor, offset_factor)


def _plain_importance(x_SWN: torch.Tensor) -> torch.Tensor:
    """Large weights count more: their magnitude, above that of the sub-block as a whole."""
    return x_SWN.abs().add_(x_SWN.square().mean(1, keepdim=True).sqrt_())
