"""Q3_K and Q6_K: super-blocks of 256 weights whose sixteen sub-blocks have a signed scale and no minimum.

The formats are ggml's (``ggml-common.h``: block_q3_K, block_q6_K).
"""

from __future__ import annotations

import torch

from whet.export.quants.chunks import Blocks
from whet.export.quants.pack import bits, crumbs, float16_bytes, nibbles, rounded, six_bit_singles
from whet.export.quants.search import Grids, divide, fit_signed_integers, fit_signed_scale

Q3, Q6 = Grids(4, -0.8, 0.4, 5, 1), Grids(32, -1.5, 0.5, 7, 1)


def encode_q3_k(blocks: Blocks) -> torch.Tensor:
    """[256, N] weights as [110, N] bytes: 32 bytes of third bits, 64 of 2-bit levels, 12 of scales, a factor."""
    x_SWN = blocks.split(blocks.x_BN, 16)
    if blocks.importance_BN is None:
        importance_SWN = _plain_importance(x_SWN)
    else:
        importance_SWN = blocks.split(blocks.weighted(2.0 * blocks.x_BN.square().mean(0)), 16)
    factor_1N, integer_SN = _fit(x_SWN, importance_SWN, Q3, 32)
    level = _levels(x_SWN, factor_1N * integer_SN, 4)
    packed = [bits((level >> 2).reshape(8, 32, -1)), crumbs((level & 3).reshape(2, 4, 32, -1)).reshape(64, -1)]
    return torch.cat([*packed, six_bit_singles(integer_SN + 32), float16_bytes(factor_1N)])


def encode_q6_k(blocks: Blocks) -> torch.Tensor:
    """[256, N] weights as [210, N] bytes: 128 of low halves, 64 of upper two bits, 16 scales, a factor."""
    x_SWN = blocks.split(blocks.x_BN, 16)
    known = blocks.importance_BN
    importance_SWN = x_SWN.square() if known is None else blocks.split(known, 16)
    factor_1N, integer_SN = _fit(x_SWN, importance_SWN, Q6, 128)
    level = _levels(x_SWN, factor_1N * integer_SN, 32).reshape(2, 4, 32, -1)  # two halves, each four rows of 32
    low, high = level & 15, level >> 4
    low_bytes = torch.stack([nibbles(low[:, 0], low[:, 2]), nibbles(low[:, 1], low[:, 3])], dim=1)
    scales = integer_SN.to(torch.int8).view(torch.uint8)
    return torch.cat([low_bytes.reshape(128, -1), crumbs(high).reshape(64, -1), scales, float16_bytes(factor_1N)])


def _plain_importance(x_SWN: torch.Tensor) -> torch.Tensor:
    """Q3_K: large weights count more, above what the sub-block as a whole does (docs/experiments.md)."""
    square_SWN = x_SWN.square()
    return square_SWN + square_SWN.mean(1, keepdim=True)


def _levels(x_SWN: torch.Tensor, step_SN: torch.Tensor, levels: int) -> torch.Tensor:
    inverse_S1N = divide(torch.ones_like(step_SN), step_SN)[:, None]
    return (x_SWN * inverse_S1N).round_().clamp_(-levels, levels - 1).add_(levels).to(torch.uint8)


def _fit(
    x_SWN: torch.Tensor, importance_SWN: torch.Tensor, grids: Grids, top: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A float16 factor for each super-block [1, N] and integers -top..top-1 for the scales of the sub-blocks."""
    scale_SN = fit_signed_scale(x_SWN, importance_SWN, grids)
    factor_1N, integer_SN = fit_signed_integers(scale_SN, importance_SWN.sum(1), top)
    return rounded(factor_1N), integer_SN
