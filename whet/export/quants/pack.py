"""Bits into bytes, for [.., N] integers of N blocks; the last dimension stays that of the blocks."""

from __future__ import annotations

import torch


def nibbles(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Two numbers 0..15 in each byte."""
    return low | (high << 4)


def crumbs(level_4: torch.Tensor) -> torch.Tensor:
    """Four numbers 0..3 in each byte: shape [H, 4, B, N] to [H, B, N]."""
    return level_4[:, 0] | (level_4[:, 1] << 2) | (level_4[:, 2] << 4) | (level_4[:, 3] << 6)


def bits(level_8: torch.Tensor) -> torch.Tensor:
    """Eight numbers 0..1 in each byte, the first in the lowest bit: shape [8, B, N] to [B, N]."""
    packed = level_8[0].clone()
    for i in range(1, 8):
        packed |= level_8[i] << i
    return packed


def float16_bytes(value_1N: torch.Tensor) -> torch.Tensor:
    """The two bytes of each float16, shape [2, N]."""
    return value_1N.reshape(-1).half().view(torch.uint8).reshape(-1, 2).t()


def rounded(value: torch.Tensor) -> torch.Tensor:
    """The number that a float16 factor will be read as."""
    return value.half().float()


def six_bit_pairs(scale_8N: torch.Tensor, offset_8N: torch.Tensor) -> torch.Tensor:
    """Eight 6-bit scales and offsets in 12 bytes (Q4_K, Q5_K): the last four ride on the upper bits of the first."""
    scale, offset = scale_8N.to(torch.uint8), offset_8N.to(torch.uint8)
    head_scale = scale[:4] | ((scale[4:] >> 4) << 6)
    head_offset = offset[:4] | ((offset[4:] >> 4) << 6)
    return torch.cat([head_scale, head_offset, nibbles(scale[4:] & 15, offset[4:] & 15)])


def six_bit_singles(scale_16N: torch.Tensor) -> torch.Tensor:
    """Sixteen 6-bit scales in 12 bytes (Q3_K): low halves in eight bytes, upper two bits in four."""
    scale = scale_16N.to(torch.uint8)
    low = nibbles(scale[:8] & 15, scale[8:] & 15)
    upper = crumbs((scale >> 4).reshape(1, 4, 4, -1))[0]
    return torch.cat([low, upper])
