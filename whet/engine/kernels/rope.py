"""Rotary position embedding in place.

The first 2C channels of a head are pairs (a, b) = (channel c, channel C + c), as in transformers' ``rotate_half``:
a' = a cos - b sin, b' = b cos + a sin                                          (arXiv:2104.09864, equation 34)

T tokens, N heads, E head size, C pairs (half of the rotary dimension). Float32 inside, rounded once.
"""

from __future__ import annotations

import torch

from whet.engine.kernels.dispatch import need_rows, row_blocks, uses_triton, wide


def rope_(t_TNE: torch.Tensor, cos_TC: torch.Tensor, sin_TC: torch.Tensor, inverse: bool = False) -> None:
    """Rotate heads in place; channels from 2C on stay.

    Queries and keys that lie side by side in one buffer can be rotated in one call, as (T, H + G, E).

    Args:
        t_TNE: any strides over tokens and heads, the last dimension contiguous.
        cos_TC, sin_TC: one row per token, any strides over tokens; model's scaling of the angles included.
        inverse: the transposed rotation: takes gradients of rotated heads back to gradients of the plain ones.

    Raises:
        ValueError: a last dimension has gaps, or 2C is more than E.
    """
    if not t_TNE.numel():
        return
    need_rows(t_TNE, cos_TC, sin_TC)
    if 2 * cos_TC.shape[1] > t_TNE.shape[2]:
        raise ValueError(f"tables of {cos_TC.shape[1]} pairs do not fit heads of {t_TNE.shape[2]} channels")
    if uses_triton(t_TNE):
        from whet.engine.kernels import rope_triton

        rope_triton.rotate_(t_TNE, cos_TC, sin_TC, inverse)
    else:
        _rotate_(t_TNE, cos_TC, sin_TC, inverse)


def _rotate_(t_TNE: torch.Tensor, cos_TC: torch.Tensor, sin_TC: torch.Tensor, inverse: bool) -> None:
    tokens, heads, size = t_TNE.shape
    pairs = cos_TC.shape[1]
    dtype = wide(t_TNE.dtype)
    for part in row_blocks(tokens, heads * size):
        cos, sin = cos_TC[part, None].to(dtype), sin_TC[part, None].to(dtype)
        sin = -sin if inverse else sin
        first, second = t_TNE[part, :, :pairs], t_TNE[part, :, pairs : 2 * pairs]
        a, b = first.to(dtype), second.to(dtype)
        rotated = (a * cos).sub_(b * sin)  # both halves are read before either is written
        second.copy_((b * cos).add_(a * sin))
        first.copy_(rotated)
