"""Is the difference more than chance? Statistics of two models on the same rows.

The interval is a paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13): rows are drawn with replacement,
both models keep their results of a row together. For results of 0 and 1 McNemar's exact test stands beside it (McNemar
1947, doi:10.1007/BF02295996): a sign test on the rows whose result changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

RESAMPLES = 10_000
SEED = 3407
AT_ONCE = 2_000_000  # drawn row numbers that are in memory together


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Two weighted means of the same rows, resampled.

    Attributes:
        first, second: the means of all rows and their intervals.
        difference: second - first.
    """

    first: Interval
    second: Interval
    difference: Interval


def paired_bootstrap(
    first_N: np.ndarray,
    second_N: np.ndarray,
    first_weight_N: np.ndarray | None = None,
    second_weight_N: np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Bootstrap:
    """Resample rows; a mean is sum(value x weight) / sum(weight) of the rows drawn.

    Args:
        first_N, second_N: results of N rows, finite.
        first_weight_N, second_weight_N: such as tokens; None: all rows count alike.

    Raises:
        ValueError: no rows, or different numbers of them.
    """
    n = len(first_N)
    if not n or len(second_N) != n:
        raise ValueError(f"{n} and {len(second_N)} results")
    ones = np.ones(n)
    weights = [ones if weight is None else weight.astype(np.float64) for weight in (first_weight_N, second_weight_N)]
    sums = [np.stack([value * weight, weight]) for value, weight in zip((first_N, second_N), weights, strict=True)]
    draw = np.random.default_rng(seed)
    means = np.empty((2, resamples))
    block = max(1, AT_ONCE // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        rows_RN = draw.integers(0, n, (size, n))
        for which, total in enumerate(sums):
            top, bottom = total[0][rows_RN].sum(1), total[1][rows_RN].sum(1)
            means[which, start : start + size] = top / np.maximum(bottom, 1e-12)
    whole = [float(total[0].sum() / max(total[1].sum(), 1e-12)) for total in sums]
    return Bootstrap(
        _interval(whole[0], means[0]),
        _interval(whole[1], means[1]),
        _interval(whole[1] - whole[0], means[1] - means[0]),
    )


def mcnemar(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """How often chance alone changes 0/1 results as unevenly as here: two-sided exact p-value."""
    gained = int(((first_N < 0.5) & (second_N >= 0.5)).sum())
    lost = int(((first_N >= 0.5) & (second_N < 0.5)).sum())
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def _interval(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(value, float(low), float(high))
