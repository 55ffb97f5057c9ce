from __future__ import annotations

import pytest

from whet.errors import DataError
from whet.evaluate.before_after import compare_answers, verdict
from whet.evaluate.tasks.sql import execution_match, wilson_interval
from whet.sample.rows import database_path, heldout_rows


def _exact(answer: str, gold: str) -> bool:
    return answer.strip() == gold


def _compare(before_right: int, after_right: int, n: int):
    """The first ``before_right`` answers are right before, the first ``after_right`` after."""
    golds = [str(i) for i in range(n)]
    before = [gold if i < before_right else "no" for i, gold in enumerate(golds)]
    after = [gold + "\n" if i < after_right else "no" for i, gold in enumerate(golds)]
    return compare_answers([f"q{i}" for i in range(n)], golds, before, after, _exact)


def test_figures_and_groups():
    comparison = compare_answers(
        ["a", "b", "c"], ["1", "2", "3"], ["1", "x", "x"], ["1", "2", "x"], _exact, ["seen", "new", "new"]
    )
    assert comparison.accuracy_before == 1 / 3 and comparison.accuracy_after == 2 / 3
    assert comparison.interval_after == wilson_interval(2, 3)
    assert comparison.by_group == {"seen": (1, 1.0, 1.0), "new": (2, 0.0, 0.5)}
    assert [(case.before_ok, case.after_ok) for case in comparison.cases] == [
        (True, True),
        (False, True),
        (False, False),
    ]


def test_verdict_sentences():
    better = verdict(_compare(4, 130, 200))
    assert better == "better by 63 points, 95% interval 56-70: right answers 2% before, 65% after"
    assert verdict(_compare(130, 4, 200)).startswith("worse by 63 points, 95% interval 56-70: right answers 65% before")
    assert verdict(_compare(7, 7, 10)) == "no difference: right answers 70% before, 70% after"
    assert verdict(_compare(5, 7, 10)).startswith("no clear difference: right answers 50% before, 70% after")
    assert "0.3 points, 95% interval 0.1-0.5: right answers 50.0% before, 50.3%" in verdict(_compare(2000, 2012, 4000))


def test_sql_scorer_on_the_shipped_questions():
    rows = heldout_rows()[:20]
    database = database_path()
    golds = [row.sql for row in rows]
    comparison = compare_answers(
        [row.question for row in rows],
        golds,
        ["SELECT 1 FROM nowhere"] * 20,
        [sql + "  " for sql in golds],
        lambda answer, gold: execution_match(database, gold, answer),
        ["seen" if row.seen_phrasing else "new" for row in rows],
    )
    assert (comparison.accuracy_before, comparison.accuracy_after) == (0.0, 1.0)
    assert sum(n for n, _, _ in comparison.by_group.values()) == 20


def test_bad_lists():
    with pytest.raises(DataError, match="different lengths"):
        compare_answers(["a"], ["1", "2"], ["1"], ["1"], _exact)
    with pytest.raises(DataError, match="nothing to compare"):
        compare_answers([], [], [], [], _exact)
