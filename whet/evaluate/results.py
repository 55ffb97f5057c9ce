"""What a comparison found: every answer with its results, the figures of each model, and a plain sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.evaluate.examples import Example
from whet.evaluate.metrics import Metric, Said
from whet.evaluate.paired import Interval, mcnemar, paired_bootstrap
from whet.evaluate.tasks.match import normalised
from whet.evaluate.tasks.sql import wilson_interval

CHANCE = 0.05  # a difference that chance makes more often than this is called no clear difference
FEW = 30  # rows below which "too few to tell" is added to an unclear difference


@dataclass(frozen=True)
class Measured:
    """One metric on one model, and its difference from the first model.

    Attributes:
        value: with its interval: of a share Wilson's, else the bootstrap's. Of a perplexity exp of the mean.
        difference: of a share in shares, of a mean in its unit, of a perplexity the relative change (-0.6: 60% lower);
            None for the first model.
        p_value: McNemar's, of 0/1 results; None elsewhere.
        better, worse: rows whose result is better or worse than the first model's.
        n: rows that count.
    """

    value: Interval
    n: int
    difference: Interval | None = None
    p_value: float | None = None
    better: int = 0
    worse: int = 0

    @property
    def clear(self) -> bool:
        """Whether the difference is more than chance."""
        if self.difference is None or self.difference.low <= 0 <= self.difference.high:
            return False
        return self.p_value is None or self.p_value <= CHANCE


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        names: of the models; the first is what the others are compared with.
        said: said[m][i] is what model m made of example i.
        results: results[metric name] has shape [models, rows]; NaN where the metric does not apply.
        weights: of the results in means; metrics that are not there count each row alike.
        facts: about the comparison, for people: name -> text.
        remarks: sentences that must be read with the figures.
    """

    names: list[str]
    examples: list[Example]
    metrics: list[Metric]
    said: list[list[Said]]
    results: dict[str, np.ndarray]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    title: str = ""
    _measured: dict[str, list[Measured]] = field(default_factory=dict, repr=False, compare=False)  # resampled once

    @property
    def main(self) -> Metric:
        """The metric of the verdict: the first one that has a better side."""
        return next((metric for metric in self.metrics if metric.better), self.metrics[0])

    def direction(self, model: int, row: int, metric: Metric | None = None) -> int:
        """1 where the model's result of a row is better than the first model's, -1 where it is worse, else 0."""
        chosen = metric or self.main
        first, second = self.results[chosen.name][0, row], self.results[chosen.name][model, row]
        if not math.isfinite(first) or not math.isfinite(second) or first == second or not chosen.better:
            return 0
        return 1 if (second > first) == (chosen.better == "higher") else -1

    def measured(self, metric: Metric) -> list[Measured]:
        """The metric of every model, over the rows that all models have a result of."""
        if metric.name not in self._measured:
            self._measured[metric.name] = self._measure(metric)
        return self._measured[metric.name]

    def _measure(self, metric: Metric) -> list[Measured]:
        results_MN = self.results[metric.name]
        weights_MN = self.weights.get(metric.name)
        kept = np.isfinite(results_MN).all(0)
        if not kept.any():
            nothing = Interval(math.nan, math.nan, math.nan)
            return [Measured(nothing, 0)] * len(self.names)
        return measure(metric, results_MN[:, kept], None if weights_MN is None else weights_MN[:, kept])

    def verdict(self, model: int = -1) -> str:
        """One plain sentence about a model (the last one by default) beside the first."""
        found = self.measured(self.main)
        return sentence(self.main, found[0], found[model % len(self.names)])

    def confusion(self, model: int) -> tuple[list[str], np.ndarray] | None:
        """Of label accuracy: the labels, and counts with a row for each expected label and a column for each answer;
        the last column counts answers that are no label. None without that metric."""
        metric = next((metric for metric in self.metrics if metric.labels), None)
        if metric is None:
            return None
        place = {normalised(label) or label: i for i, label in enumerate(metric.labels)}
        counts = np.zeros((len(place), len(place) + 1), dtype=np.int64)
        for example, said in zip(self.examples, self.said[model], strict=True):
            gold, text = example.expected_text, said.answer.text
            row = place.get(normalised(gold) or gold.strip()) if gold is not None else None
            if row is not None:
                counts[row, place.get(normalised(text) or text.strip(), len(place))] += 1
        return list(metric.labels), counts

    def summary(self) -> dict[str, Any]:
        """The figures, for ``summary.json``."""
        return {
            "title": self.title,
            "models": self.names,
            "n": len(self.examples),
            "verdict": self.verdict(),
            "verdicts": {name: self.verdict(m) for m, name in enumerate(self.names) if m},
            "metrics": {
                metric.name: {
                    "title": metric.title,
                    "why": metric.why or "asked for",
                    "models": {
                        name: _as_json(found) for name, found in zip(self.names, self.measured(metric), strict=True)
                    },
                }
                for metric in self.metrics
            },
            "facts": self.facts,
            "remarks": self.remarks,
        }


def measure(metric: Metric, results_MN: np.ndarray, weights_MN: np.ndarray | None = None) -> list[Measured]:
    """A metric of M models on N rows, each beside the first model; all results are finite."""
    weights = [None] * len(results_MN) if weights_MN is None else list(weights_MN)
    return [_measured(metric, results_MN, weights, m) for m in range(len(results_MN))]


def sentence(metric: Metric, first: Measured, second: Measured) -> str:
    """ "better by 41 points, 95% interval 35-47: label accuracy 52% before, 93% after"."""
    part = second.difference
    if not second.n or part is None:
        return f"nothing to say: no row has a result of both models ({metric.title})"
    if metric.kind == "perplexity":
        return _relative(metric, first, second, part)
    if metric.name == "judge":
        return _preferred(metric, second)
    scale, unit = (100, "point") if metric.kind == "share" else (1, "unit")
    delta, low, high = scale * part.value, scale * part.low, scale * part.high
    small = metric.kind == "mean" or 0 < abs(delta) < 1
    values = [_value(metric, each.value.value, small) for each in (first, second)]
    figures = f"{metric.title} {values[0]} before, {values[1]} after"
    if delta == 0 and not second.better:
        return f"no difference: {figures}"
    if not second.clear:
        few = f"; {second.n:,} rows are too few to tell" if second.n < FEW else ""
        return f"no clear difference: {figures} (95% interval of the difference {low:+.0f} to {high:+.0f} {unit}s{few})"
    digits = 1 if small else 0
    better = (delta > 0) == (metric.better == "higher")
    low, high = sorted((abs(low), abs(high)))
    units = unit if f"{abs(delta):.{digits}f}" == "1" else f"{unit}s"
    return (
        f"{'better' if better else 'worse'} by {abs(delta):.{digits}f} {units}, "
        f"95% interval {low:.{digits}f}-{high:.{digits}f}: {figures}"
    )


def shown(metric: Metric, value: float) -> str:
    """A value as tables show it."""
    return "-" if not math.isfinite(value) else _value(metric, value, metric.kind == "share")


def _preferred(metric: Metric, second: Measured) -> str:
    value, low, high = (100 * part for part in (second.value.value, second.value.low, second.value.high))
    word = "no clear difference" if not second.clear else "better" if value > 50 else "worse"
    return f"{word}: {metric.title} in {value:.0f}% of rows (95% interval {low:.0f}-{high:.0f}; 50% is a tie)"


def _relative(metric: Metric, first: Measured, second: Measured, change: Interval) -> str:
    figures = f"{metric.title} {first.value.value:.3g} before, {second.value.value:.3g} after"
    percent, low, high = (100 * abs(value) for value in (change.value, change.low, change.high))
    if not second.clear:
        ends = f"{100 * change.low:+.1f}% to {100 * change.high:+.1f}%"
        return f"no clear difference: {figures} (95% interval of the change {ends})"
    low, high = sorted((low, high))
    word, side = ("better", "lower") if change.value < 0 else ("worse", "higher")
    digits = 1 if percent < 10 else 0
    return f"{word}: {figures}, {percent:.{digits}f}% {side} (95% interval {low:.{digits}f}-{high:.{digits}f})"


def _value(metric: Metric, value: float, fine: bool) -> str:
    if metric.kind == "share":
        return f"{100 * value:.{1 if fine else 0}f}%"
    return f"{value:.3g}" if metric.kind == "perplexity" else f"{value:.1f}"


def _measured(metric: Metric, values: np.ndarray, weights: list[np.ndarray | None], m: int) -> Measured:
    found = paired_bootstrap(values[0], values[m], weights[0], weights[m])
    n = values.shape[1]
    binary = metric.kind == "share" and bool(np.isin(values, (0.0, 1.0)).all())
    value, change = found.second, found.difference
    if metric.kind == "perplexity":
        value = Interval(*(math.exp(min(part, 700.0)) for part in (value.value, value.low, value.high)))
        change = Interval(*(math.expm1(min(part, 700.0)) for part in (change.value, change.low, change.high)))
    elif binary:
        value = Interval(value.value, *wilson_interval(int(values[m].sum()), n))
    sign = -1 if metric.better == "lower" else 1
    rise = sign * (values[m] - values[0]) if metric.better else np.zeros(n)
    if m == 0:
        return Measured(value, n)
    if binary and change.low == change.high and abs(change.value) == 1:
        change = _all_changed(change.value, n)
    p_value = mcnemar(values[0], values[m]) if binary else None
    return Measured(value, n, change, p_value, int((rise > 0).sum()), int((rise < 0).sum()))


def _all_changed(value: float, n: int) -> Interval:
    """Where every row changed, resampling shows no spread; how few rows there were still counts (Wilson's interval)."""
    low, high = wilson_interval(n, n)
    return Interval(value, low, high) if value > 0 else Interval(value, -high, -low)


def _as_json(found: Measured) -> dict[str, Any]:
    entry: dict[str, Any] = {"value": found.value.value, "interval": [found.value.low, found.value.high], "n": found.n}
    if found.difference is not None:
        change = found.difference
        entry |= {"difference": change.value, "difference_interval": [change.low, change.high], "clear": found.clear,
                  "better": found.better, "worse": found.worse}  # fmt: skip
    if found.p_value is not None:
        entry["mcnemar_p"] = found.p_value
    return entry
