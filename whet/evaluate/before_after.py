"""The same questions before and after, scored: what a run's own report shows beside its loss.

The interval of an accuracy is Wilson's; the sentence and the interval in it are those of ``whet compare``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from whet.errors import DataError
from whet.evaluate.metrics import Metric
from whet.evaluate.results import measure, sentence
from whet.evaluate.tasks.sql import wilson_interval

RIGHT = Metric("right", "right answers", "share", "higher", "", None)

Score = Callable[[str, str], bool]
"""(answer, gold) -> whether the answer is right."""


@dataclass(frozen=True)
class Case:
    """One question with both answers. ``group`` names the part of the questions that it belongs to, or is ""."""

    question: str
    gold: str
    before: str
    after: str
    before_ok: bool
    after_ok: bool
    group: str = ""


@dataclass(frozen=True)
class Comparison:
    """All cases and their figures; accuracies and interval ends are shares from 0 to 1.

    Attributes:
        interval_after: the 95% interval of ``accuracy_after``.
        by_group: group -> (number of questions, accuracy before, accuracy after), in order of first appearance.
    """

    cases: tuple[Case, ...]
    accuracy_before: float
    accuracy_after: float
    interval_after: tuple[float, float]
    by_group: dict[str, tuple[int, float, float]]


def compare_answers(
    questions: Sequence[str],
    golds: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    score: Score,
    groups: Sequence[str] | None = None,
) -> Comparison:
    """Score both sets of answers.

    Args:
        golds: the right answer of each question.
        score: whether an answer (first argument) is right, given the gold one (second).
        groups: a group name for each question.

    Raises:
        DataError: no questions, or lists of different lengths.
    """
    lengths = {"questions": len(questions), "golds": len(golds), "before": len(before), "after": len(after)}
    if groups is not None:
        lengths["groups"] = len(groups)
    if len(set(lengths.values())) > 1:
        raise DataError(f"lists of different lengths: {lengths}", "one entry for each question in every list")
    rows = zip(questions, golds, before, after, groups or [""] * len(questions), strict=True)
    return compare_cases([Case(q, gold, b, a, score(b, gold), score(a, gold), group) for q, gold, b, a, group in rows])


def compare_cases(cases: Sequence[Case]) -> Comparison:
    """The figures of cases that are scored already.

    Raises:
        DataError: no cases.
    """
    if not cases:
        raise DataError("nothing to compare", "at least one question")
    groups = [name for name in dict.fromkeys(case.group for case in cases) if name]
    by_group = {name: _figures([case for case in cases if case.group == name]) for name in groups}
    n, accuracy_before, accuracy_after = _figures(cases)
    interval = wilson_interval(sum(case.after_ok for case in cases), n)
    return Comparison(tuple(cases), accuracy_before, accuracy_after, interval, by_group)


def verdict(comparison: Comparison) -> str:
    """One plain sentence: "better by 63 points, 95% interval 56-70: right answers 2% before, 65% after"."""
    right = np.array([[case.before_ok for case in comparison.cases], [case.after_ok for case in comparison.cases]])
    return sentence(RIGHT, *measure(RIGHT, right.astype(np.float64)))


def _figures(cases: Sequence[Case]) -> tuple[int, float, float]:
    n = len(cases)
    return n, sum(case.before_ok for case in cases) / n, sum(case.after_ok for case in cases) / n
