"""The searches behind the block formats: which integers, and which scale for them, lose the least.

ggml's idea (``ggml-quants.c``): round the weights to a few slightly different grids; for the integers of each grid the
best scale (and minimum) follows from weighted least squares; the grid with the least weighted error wins. The errors
are not summed weight by weight: for integers l, weights x and importance w, with scale s and minimum m,

    sum w (x - s l - m)^2 = sum w x^2 - s sum wxl - m sum wx    at the best s and m,

so that a few sums decide, and these the least squares need anyway.

Shapes: S sub-blocks of W weights in each of N blocks, [S, W, N]. N comes last, so that every operation and every sum
runs along contiguous memory with one scale for each element: on a CPU ten times as fast as [N, S, W].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Grids:
    """The grids to try: ``levels + first + step * i`` levels over the range, i in 0..count-1, then ``polish`` more.

    A polishing grid is the best one so far: new integers for its scale, a new scale for these. ggml tries 16 to 37
    grids and does not polish; fewer with polish come as close in half the time (benchmarks/results/kquants.json).
    """

    levels: int
    first: float
    step: float
    count: int
    polish: int

    def sizes(self) -> list[float]:
        return [self.levels + self.first + self.step * i for i in range(self.count)]


INTEGER_GRIDS = [1.0 - 0.016 * i for i in range(-1, 21)]  # sizes for the scales themselves, as parts of the range
ROUNDS = 2  # of "integers for this factor, factor for these integers"
DETERMINED = 1e-6  # levels that differ by less than float32 resolves determine no scale


def fit_scale_and_minimum(
    x_SWN: torch.Tensor, importance_SWN: torch.Tensor, grids: Grids
) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and offset, both >= 0, with ``x ~ scale * level - offset`` and level in 0..levels. Shapes [S, N].

    Each grid starts from the best minimum found so far, so that the search also moves the minimum.
    """
    low, high = x_SWN.amin(1).clamp_(max=0.0), x_SWN.amax(1)
    pair_2SWN = torch.stack([importance_SWN, importance_SWN * x_SWN])
    total, sum_x = pair_2SWN.sum(2)
    level_SWN, scratch_2SWN = torch.empty_like(x_SWN), torch.empty_like(pair_2SWN)
    scale = (high - low).div_(grids.levels)
    best = torch.full_like(low, -torch.inf)
    for size in [*grids.sizes(), *[None] * grids.polish]:
        inverse = 1.0 / _without_zeros(scale) if size is None else size / _without_zeros(high - low)
        torch.addcmul((-low * inverse)[:, None], x_SWN, inverse[:, None], out=level_SWN)
        level_SWN.round_().clamp_(0, grids.levels)
        sum_l, sum_xl = torch.mul(pair_2SWN, level_SWN, out=scratch_2SWN).sum(2)
        sum_ll = scratch_2SWN[0].mul_(level_SWN).sum(1)
        new_scale, new_low, valid = _least_squares(total, sum_x, sum_l, sum_ll, sum_xl)
        gain = torch.addcmul(new_scale * sum_xl, new_low, sum_x)  # holds at the optimum
        better = (gain > best).logical_and_(valid)
        best = torch.where(better, gain, best)
        scale, low = torch.where(better, new_scale, scale), torch.where(better, new_low, low)
    return scale.clamp_(min=0.0), -low


def _without_zeros(value: torch.Tensor) -> torch.Tensor:
    return value.masked_fill(value == 0, 1.0)


def _least_squares(
    total: torch.Tensor, sum_x: torch.Tensor, sum_l: torch.Tensor, sum_ll: torch.Tensor, sum_xl: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best scale and minimum (<= 0) for given levels, and where they are determined (elsewhere any numbers)."""
    whole = total * sum_ll
    determinant = torch.addcmul(whole, sum_l, sum_l, value=-1)
    scale = torch.addcmul(total * sum_xl, sum_x, sum_l, value=-1).div_(determinant)
    low = torch.addcmul(sum_ll * sum_x, sum_l, sum_xl, value=-1).div_(determinant)
    # The format has no positive minimum: there the scale is fitted alone.
    scale = torch.where(low > 0, sum_xl / sum_ll, scale)
    return scale, low.clamp_(max=0.0), determinant > whole.mul_(DETERMINED)


def fit_signed_scale(x_SWN: torch.Tensor, importance_SWN: torch.Tensor, grids: Grids) -> torch.Tensor:
    """scale with ``x ~ scale * level`` and level in -levels..levels-1. Shape [S, N].

    The weight with the largest magnitude lies near ``-levels``, which reaches further than ``levels - 1``.
    """
    levels = grids.levels
    inverse_peak = -1.0 / _without_zeros(peak(x_SWN)[:, 0])
    importance_x_SWN = importance_SWN * x_SWN
    level_SWN, scratch_SWN = torch.empty_like(x_SWN), torch.empty_like(x_SWN)
    best, best_scale = torch.zeros_like(inverse_peak), torch.zeros_like(inverse_peak)
    for size in [*grids.sizes(), *[None] * grids.polish]:
        inverse = 1.0 / _without_zeros(best_scale) if size is None else inverse_peak * size
        torch.mul(x_SWN, inverse[:, None], out=level_SWN).round_().clamp_(-levels, levels - 1)
        sum_xl = torch.mul(importance_x_SWN, level_SWN, out=scratch_SWN).sum(1)
        sum_ll = torch.mul(importance_SWN, level_SWN, out=scratch_SWN).mul_(level_SWN).sum(1)
        scale = sum_xl / sum_ll
        gain = scale * sum_xl  # what the best scale for these levels explains
        better = gain > best
        best, best_scale = torch.where(better, gain, best), torch.where(better, scale, best_scale)
    return best_scale


def fit_positive_integers(
    value_SN: torch.Tensor, importance_SN: torch.Tensor, levels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A factor for each block ([1, N]) and integers 0..levels with ``factor * integer ~ value``, value >= 0.

    A sub-block's scale counts as much as its weights do. All grids are tried at once: the data are small. ggml tries
    nine at most; a wider search takes two to five percent off the weighted error.
    """
    return _fit_integers(value_SN, importance_SN, levels, value_SN.amax(0, keepdim=True), 0, levels)


def fit_signed_integers(
    value_SN: torch.Tensor, importance_SN: torch.Tensor, levels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`fit_positive_integers`, with integers -levels..levels-1."""
    return _fit_integers(value_SN, importance_SN, -levels, peak(value_SN, 0), -levels, levels - 1)


def _fit_integers(
    value_SN: torch.Tensor, importance_SN: torch.Tensor, size: int, largest_1N: torch.Tensor, low: int, high: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Among the grids (each polished by a few rounds of least squares) the one that explains most."""
    value, importance = value_SN[None], importance_SN[None]
    sizes_C11 = size * torch.tensor(INTEGER_GRIDS, device=value.device)[:, None, None]
    inverse_C1N = sizes_C11 / _without_zeros(largest_1N)[None]
    for _ in range(ROUNDS):
        integer_CSN = (value * inverse_C1N).round_().clamp_(low, high)
        weighted_CSN = importance * integer_CSN
        sum_vl, sum_ll = (weighted_CSN * value).sum(1, keepdim=True), (weighted_CSN * integer_CSN).sum(1, keepdim=True)
        inverse_C1N = divide(sum_ll, sum_vl)
    factor_C1N = divide(sum_vl, sum_ll)
    winner_11N = (factor_C1N * sum_vl).argmax(0, keepdim=True)
    factor_1N = factor_C1N.gather(0, winner_11N)[0]
    integer_SN = integer_CSN.gather(0, winner_11N.expand(1, *value_SN.shape))[0]
    return factor_1N, integer_SN


def peak(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """The value with the largest magnitude along ``dim``, with its sign; the dimension is kept."""
    high, low = x.amax(dim, keepdim=True), x.amin(dim, keepdim=True)
    return torch.where(high >= -low, high, low)


def divide(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
    """``above / below``, and 0 where ``below`` is 0 (a block of zeros, or of one constant)."""
    zero = below == 0
    return torch.where(zero, 0.0, above / torch.where(zero, 1.0, below))
