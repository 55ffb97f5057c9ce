"""Intervals and tests against brute force, and how often they cover the truth."""

from __future__ import annotations

from itertools import product
from math import exp, log

import numpy as np
import pytest
from comparisons import made

from whet.evaluate.metrics import Metric
from whet.evaluate.paired import mcnemar, paired_bootstrap
from whet.evaluate.results import Comparison, sentence
from whet.evaluate.tasks.sql import wilson_interval


def test_the_quantiles_are_those_of_every_resample():
    """Four rows: all 256 resamples, counted."""
    first, second = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 3.0])
    drawn = [np.mean([(second - first)[i] for i in rows]) for rows in product(range(4), repeat=4)]
    found = paired_bootstrap(first, second, resamples=200_000)
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert found.difference.value == 1.0
    assert (found.difference.low, found.difference.high) == (low, high)


def test_weights_and_seed():
    draw = np.random.default_rng(1)
    values, tokens = draw.random((2, 50)), draw.integers(1, 9, 50).astype(float)
    found = paired_bootstrap(values[0], values[1], tokens, tokens)
    assert found.first.value == pytest.approx((values[0] * tokens).sum() / tokens.sum())
    assert found == paired_bootstrap(values[0], values[1], tokens, tokens)
    assert found != paired_bootstrap(values[0], values[1], tokens, tokens, seed=1)
    assert found.difference.value == pytest.approx(found.second.value - found.first.value)
    with pytest.raises(ValueError):
        paired_bootstrap(np.array([]), np.array([]))


def test_pairing_narrows_the_interval():
    draw = np.random.default_rng(2)
    first = draw.normal(size=100)
    second = first + 0.1 + draw.normal(size=100) * 0.05
    paired = paired_bootstrap(first, second).difference
    mixed = paired_bootstrap(first, draw.permutation(second)).difference
    assert paired.low > 0 and paired.high - paired.low < 0.2 * (mixed.high - mixed.low)


def test_it_covers_the_truth():
    """Of 200 comparisons of 80 rows whose models differ by 0.2, the 95% interval holds 0.2 in nearly all."""
    draw = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        first = (draw.random(80) < 0.5).astype(float)
        second = np.where(draw.random(80) < 0.4, 1.0, first)  # right where it was, or became: 0.5 + 0.4 x 0.5
        part = paired_bootstrap(first, second, resamples=1_000, seed=seed).difference
        held += part.low <= 0.2 <= part.high
    assert held >= 178  # a binomial(200, 0.95) is below that once in 10,000


@pytest.mark.parametrize(("gained", "lost", "expected"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (8, 1, 20 / 512)])
def test_mcnemar(gained: int, lost: int, expected: float):
    first = np.array([0.0] * gained + [1.0] * lost + [1.0, 0.0])
    second = np.array([1.0] * gained + [0.0] * lost + [1.0, 0.0])
    assert mcnemar(first, second) == pytest.approx(expected)


def _right(before: int, after: int, n: int) -> Comparison:
    golds = ["yes" if i % 2 else "no" for i in range(n)]
    return made(
        [(f"q{i}", gold, [gold if i < before else "x", gold if i < after else "x"]) for i, gold in enumerate(golds)]
    )


def test_sentences():
    assert _right(104, 186, 200).verdict().startswith("better by 41 points, 95% interval 34-48: label accuracy 52%")
    assert _right(186, 104, 200).verdict().startswith("worse by 41 points, 95% interval 34-48: label accuracy 93%")
    assert _right(7, 7, 10).verdict() == "no difference: label accuracy 70% before, 70% after"
    text = _right(5, 7, 10).verdict()
    assert text.startswith("no clear difference: label accuracy 50% before, 70% after (95% interval of the difference")
    assert text.endswith("10 rows are too few to tell)")


def test_where_every_row_changed_the_number_of_rows_still_counts():
    found = _right(0, 20, 20)
    part = found.measured(found.main)[1].difference
    assert part is not None and part.low == pytest.approx(wilson_interval(20, 20)[0]) and part.high == 1.0
    assert "95% interval 84-100" in found.verdict()
    assert _right(3, 0, 3).verdict().startswith("no clear difference")  # three of three: McNemar's p is 0.25


def test_perplexity_is_weighted_by_tokens():
    metric = Metric("perplexity", "perplexity", "perplexity", "lower", "", None)
    nats = np.array([[2.0] * 40, [1.0] * 40]) + np.linspace(0, 0.5, 40)
    tokens = np.tile(np.arange(1.0, 41.0), (2, 1))
    base = made([("q", "", ["a", "b"])] * 40)
    found = Comparison(["a", "b"], base.examples, [metric], base.said, {"perplexity": nats}, {"perplexity": tokens})
    first, second = found.measured(metric)
    assert first.value.value == pytest.approx(exp((nats[0] * tokens[0]).sum() / tokens[0].sum()))
    assert second.difference is not None and second.difference.value == pytest.approx(exp(-1) - 1)
    assert log(first.value.value / second.value.value) == pytest.approx(1)
    assert "63% lower" in sentence(metric, first, second) and second.better == 40
