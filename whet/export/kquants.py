"""Q4_K and Q6_K, encoded with plain torch operations: no compiler, no binary, any device.

The formats are ggml's (``ggml-common.h``: block_q4_K, block_q6_K). A super-block is 256 weights of one row, cut into
sub-blocks. Each sub-block has a small integer scale (Q4_K: and a minimum), the super-block float16 factors for these.

How the integers are chosen: for each sub-block a few slightly different grids are tried. Weights are rounded to a
grid, then the best scale (and minimum) for these integers follows from weighted least squares; the grid with the least
weighted error wins. This is the search that ggml does, so the error is the same within a fraction of a percent.

Shapes: N super-blocks, S sub-blocks in each, W weights in a sub-block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

SUPER = 256
Q4_K_BYTES, Q6_K_BYTES = 144, 210
Q4_STEPS, Q4_FIRST, Q4_STEP = 20, -1.0, 0.1  # grids of Q4_K: 15 - 1.0 .. 15 + 1.0 levels over the range
Q6_OFFSETS = [0.1 * step for step in (0, *range(-9, 0), *range(1, 10))]  # grids of Q6_K: 32 + offset levels
CHUNK = 1024  # super-blocks at a time: a megabyte per temporary, which stays in the cache of one core


def encode_q4_k(weight_OI: torch.Tensor) -> torch.Tensor:
    """Encode a matrix as Q4_K.

    Args:
        weight_OI: float32, columns a multiple of 256.

    Returns:
        uint8 of shape [rows, columns / 256 * 144].
    """
    return _encode(weight_OI, _q4_k_blocks)


def encode_q6_k(weight_OI: torch.Tensor) -> torch.Tensor:
    """Encode a matrix as Q6_K; as :func:`encode_q4_k`, 210 bytes a super-block."""
    return _encode(weight_OI, _q6_k_blocks)


def _encode(weight_OI: torch.Tensor, blocks: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    blocks_NB = weight_OI.float().reshape(-1, SUPER)
    encoded = torch.cat(list(_each_chunk(blocks, blocks_NB.split(CHUNK))))
    return encoded.reshape(*weight_OI.shape[:-1], -1)


def _each_chunk(
    blocks: Callable[[torch.Tensor], torch.Tensor], chunks: Sequence[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """One chunk per thread instead of torch's many threads per operation.

    The operations are short. Where other programs use the cores too, torch's threads wait for each other at the end of
    each one: measured on two shared cores, 0.2 million weights a second against 1.7 million this way.
    """
    if chunks[0].device.type != "cpu":
        yield from map(blocks, chunks)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(blocks, chunks)
    finally:
        torch.set_num_threads(before)


def _q4_k_blocks(x_NB: torch.Tensor) -> torch.Tensor:
    x_NSW = x_NB.reshape(-1, 8, 32)
    importance_NSW = x_NSW.square().mean(-1, keepdim=True).sqrt() + x_NSW.abs()
    scale_NS, offset_NS = _fit_scale_and_minimum(x_NSW, importance_NSW, levels=15)
    scale_N1, scale_int_NS = _six_bits(scale_NS)
    offset_N1, offset_int_NS = _six_bits(offset_NS)
    step_NSW = (scale_N1 * scale_int_NS)[..., None]
    shifted_NSW = x_NSW + (offset_N1 * offset_int_NS)[..., None]
    level_NSW = _divide(shifted_NSW, step_NSW).round().clamp(0, 15).to(torch.uint8)
    pair_N4CW = level_NSW.reshape(-1, 4, 2, 32)  # two sub-blocks share 32 bytes: low and high half
    nibbles = pair_N4CW[:, :, 0] | (pair_N4CW[:, :, 1] << 4)
    return torch.cat(
        [_float16_bytes(scale_N1), _float16_bytes(offset_N1), _pack_q4_scales(scale_int_NS, offset_int_NS),
         nibbles.reshape(-1, 128)],
        dim=1,
    )  # fmt: skip


def _fit_scale_and_minimum(
    x_NSW: torch.Tensor, importance_NSW: torch.Tensor, levels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and offset, both >= 0, with x ~ scale * level - offset and level in 0..levels. Shapes [N, S].

    Each grid starts from the best minimum found so far, so that the search also moves the minimum.
    """
    low_NS, high_NS = x_NSW.amin(-1).clamp(max=0.0), x_NSW.amax(-1)
    scale_NS = (high_NS - low_NS).clamp(min=0.0) / levels  # the plain grid over the whole range
    level_NSW = _levels(x_NSW, low_NS, _divide(torch.ones_like(scale_NS), scale_NS), levels)
    best_NS = _weighted_error(x_NSW, importance_NSW, level_NSW, scale_NS, low_NS)
    for step in range(Q4_STEPS + 1):
        grid = levels + Q4_FIRST + Q4_STEP * step
        level_NSW = _levels(x_NSW, low_NS, _divide(torch.full_like(low_NS, grid), high_NS - low_NS), levels)
        refit_scale_NS, refit_low_NS, valid_NS = _least_squares(x_NSW, importance_NSW, level_NSW)
        error_NS = _weighted_error(x_NSW, importance_NSW, level_NSW, refit_scale_NS, refit_low_NS)
        better_NS = (error_NS < best_NS) & valid_NS
        best_NS = torch.where(better_NS, error_NS, best_NS)
        scale_NS = torch.where(better_NS, refit_scale_NS, scale_NS)
        low_NS = torch.where(better_NS, refit_low_NS, low_NS)
    return scale_NS.clamp(min=0.0), -low_NS


def _levels(x_NSW: torch.Tensor, low_NS: torch.Tensor, inverse_NS: torch.Tensor, levels: int) -> torch.Tensor:
    return (x_NSW - low_NS[..., None]).mul_(inverse_NS[..., None]).round_().clamp_(0, levels)


def _least_squares(
    x_NSW: torch.Tensor, importance_NSW: torch.Tensor, level_NSW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best scale and minimum (<= 0) for given levels, and where they are determined."""
    weighted_NSW = importance_NSW * level_NSW
    total_NS, sum_x_NS = importance_NSW.sum(-1), (importance_NSW * x_NSW).sum(-1)
    sum_l_NS, sum_ll_NS = weighted_NSW.sum(-1), (weighted_NSW * level_NSW).sum(-1)
    sum_xl_NS = weighted_NSW.mul_(x_NSW).sum(-1)
    determinant_NS = total_NS * sum_ll_NS - sum_l_NS.square()
    scale_NS = _divide(total_NS * sum_xl_NS - sum_x_NS * sum_l_NS, determinant_NS)
    low_NS = _divide(sum_ll_NS * sum_x_NS - sum_l_NS * sum_xl_NS, determinant_NS)
    # The format has no positive minimum: there the scale is fitted alone.
    scale_NS = torch.where(low_NS > 0, _divide(sum_xl_NS, sum_ll_NS), scale_NS)
    return scale_NS, low_NS.clamp(max=0.0), determinant_NS > 0


def _weighted_error(
    x_NSW: torch.Tensor,
    importance_NSW: torch.Tensor,
    level_NSW: torch.Tensor,
    scale_NS: torch.Tensor,
    low_NS: torch.Tensor,
) -> torch.Tensor:
    error_NSW = (level_NSW * scale_NS[..., None]).add_(low_NS[..., None]).sub_(x_NSW)
    return error_NSW.square_().mul_(importance_NSW).sum(-1)


def _six_bits(value_NS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A float16 factor per super-block (as float32, [N, 1]) and integers 0..63 with factor * integer ~ value."""
    largest_N1 = value_NS.amax(-1, keepdim=True)
    integer_NS = _divide(63.0 * value_NS, largest_N1).round().clamp(0, 63)
    return (largest_N1 / 63.0).half().float(), integer_NS


def _pack_q4_scales(scale_NS: torch.Tensor, offset_NS: torch.Tensor) -> torch.Tensor:
    """Eight 6-bit scales and eight 6-bit offsets in 12 bytes: the upper two bits of the last four ride on the first."""
    scale, offset = scale_NS.to(torch.uint8), offset_NS.to(torch.uint8)
    head_scale = scale[:, :4] | ((scale[:, 4:] >> 4) << 6)
    head_offset = offset[:, :4] | ((offset[:, 4:] >> 4) << 6)
    tail = (scale[:, 4:] & 0x0F) | ((offset[:, 4:] & 0x0F) << 4)
    return torch.cat([head_scale, head_offset, tail], dim=1)


def _q6_k_blocks(x_NB: torch.Tensor) -> torch.Tensor:
    x_NSW = x_NB.reshape(-1, 16, 16)
    scale_NS = _fit_signed_scale(x_NSW, levels=32)
    largest_N1 = scale_NS.gather(1, scale_NS.abs().argmax(1, keepdim=True))
    factor_N1 = (largest_N1 / -128.0).half().float()
    integer_NS = _divide(-128.0 * scale_NS, largest_N1).round().clamp(-128, 127)
    step_NSW = (factor_N1 * integer_NS)[..., None]
    level_NSW = _divide(x_NSW, step_NSW).round().clamp(-32, 31)
    level = (level_NSW + 32).to(torch.uint8).reshape(-1, 2, 4, 32)  # two halves, each four rows of 32
    low, high = level & 0x0F, level >> 4
    low_bytes = torch.cat([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], dim=-1)
    high_bytes = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    return torch.cat(
        [low_bytes.reshape(-1, 128), high_bytes.reshape(-1, 64), integer_NS.to(torch.int8).view(torch.uint8),
         _float16_bytes(factor_N1)],
        dim=1,
    )  # fmt: skip


def _fit_signed_scale(x_NSW: torch.Tensor, levels: int) -> torch.Tensor:
    """scale with x ~ scale * level and level in -levels..levels-1; errors weighted by x squared. Shape [N, S]."""
    peak_NS = x_NSW.gather(-1, x_NSW.abs().argmax(-1, keepdim=True)).squeeze(-1)  # with its sign
    importance_NSW = x_NSW.square()
    importance_x_NSW = importance_NSW * x_NSW
    best_NS = torch.zeros_like(peak_NS)
    best_scale_NS = torch.zeros_like(peak_NS)
    for offset in Q6_OFFSETS:
        inverse_NS = _divide(torch.full_like(peak_NS, -(levels + offset)), peak_NS)
        level_NSW = (x_NSW * inverse_NS[..., None]).round_().clamp_(-levels, levels - 1)
        sum_xl_NS = (importance_x_NSW * level_NSW).sum(-1)
        sum_ll_NS = (importance_NSW * level_NSW.square_()).sum(-1)
        gain_NS = _divide(sum_xl_NS.square(), sum_ll_NS)  # what the best scale for these levels explains
        better_NS = gain_NS > best_NS
        best_NS = torch.where(better_NS, gain_NS, best_NS)
        best_scale_NS = torch.where(better_NS, _divide(sum_xl_NS, sum_ll_NS), best_scale_NS)
    return best_scale_NS


def _divide(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """``above / below``, and 0 where ``below`` is 0 (a block of zeros, or of one constant)."""
    zero = below == 0
    return torch.where(zero, 0.0, above / torch.where(zero, 1.0, below))


def _float16_bytes(value_N1: torch.Tensor) -> torch.Tensor:
    """The two bytes of each float16, shape [N, 2]."""
    return value_N1.half().contiguous().view(torch.uint8).reshape(-1, 2)
