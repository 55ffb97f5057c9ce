"""Did training help? The same questions before and after, scored, with an interval and a plain sentence.

The interval of the accuracy is Wilson's. Whether the two accuracies differ is decided on the questions whose result
changed: the exact form of McNemar's test (McNemar 1947, doi:10.1007/BF02295996; a sign test on the changes), at 5%.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

from whet.errors import DataError
from whet.evaluate.tasks.sql import wilson_interval

CHANCE = 0.05  # a difference that chance makes more often than this is called no clear difference

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
    """One plain sentence: "better by 63 points: 2% before, 65% after (95% interval 58-71)"."""
    before, after = 100 * comparison.accuracy_before, 100 * comparison.accuracy_after
    low, high = (100 * end for end in comparison.interval_after)
    digits = 1 if round(before) == round(after) and before != after else 0
    points = abs(round(after, digits) - round(before, digits))
    unit = "point" if points == 1 else "points"
    figures = f"{before:.{digits}f}% before, {after:.{digits}f}% after (95% interval {low:.0f}-{high:.0f})"
    if before == after:
        return f"no difference: {figures}"
    if chance_of_difference(comparison) > CHANCE:
        return f"no clear difference: {figures}; {len(comparison.cases):,} questions are too few to tell"
    return f"{'better' if after > before else 'worse'} by {points:.{digits}f} {unit}: {figures}"


def chance_of_difference(comparison: Comparison) -> float:
    """How often chance alone makes right and wrong change as unevenly as here (two-sided exact sign test)."""
    gained = sum(case.after_ok and not case.before_ok for case in comparison.cases)
    lost = sum(case.before_ok and not case.after_ok for case in comparison.cases)
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**changed))


def _figures(cases: Sequence[Case]) -> tuple[int, float, float]:
    n = len(cases)
    return n, sum(case.before_ok for case in cases) / n, sum(case.after_ok for case in cases) / n
