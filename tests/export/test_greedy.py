"""Answers at temperature 0 against what the trained model would have written."""

from __future__ import annotations

import numpy as np
import pytest

from whet.export.greedy import Answer, judge_answers

END = 3


def row(**shares: float) -> list[float]:
    """Probabilities of the tokens t0 to t3; the rest is shared evenly."""
    given = {int(name[1:]): share for name, share in shares.items()}
    rest = (1 - sum(given.values())) / (4 - len(given))
    return [given.get(token, rest) for token in range(4)]


def logs(*rows: list[float]) -> np.ndarray:
    return np.log(np.array(rows))


def test_leading_tokens_end_at_the_first_difference() -> None:
    answer = Answer([9], [0, 1, 0, END], True)
    found = judge_answers([answer], [logs(row(t0=0.9), row(t2=0.9), row(t0=0.9), row(t3=0.9))], {END})
    assert found is not None
    assert (found.agreement, found.tokens, found.ended, found.ended_trained, found.ends_wrong) == (0.25, 4, 1, 1, 0)


def test_either_of_two_equally_likely_tokens_is_right() -> None:
    found = judge_answers([Answer([9], [1, END], True)], [logs(row(t0=0.46, t1=0.45), row(t3=0.9))], {END})
    assert found is not None and found.agreement == 1.0


@pytest.mark.parametrize(
    ("tokens", "ended", "rows", "wrong"),
    [
        ([0, 0], False, [row(t0=0.9), row(t3=0.97)], 1),  # goes on where the trained model surely ends
        ([0, 0], False, [row(t0=0.9), row(t3=0.5, t0=0.4)], 0),  # a close choice
        ([0, END], True, [row(t0=0.9), row(t1=0.99)], 1),  # ends where it would hardly end
        ([0, END], True, [row(t0=0.9), row(t1=0.6, t3=0.3)], 0),
        ([0, END], True, [row(t1=0.9), row(t1=0.99)], 0),  # another text already
    ],
)
def test_wrong_ends(tokens: list[int], ended: bool, rows: list[list[float]], wrong: int) -> None:
    found = judge_answers([Answer([9], tokens, ended)], [logs(*rows)], {END})
    assert found is not None and found.ends_wrong == wrong


def test_nothing_to_judge() -> None:
    assert judge_answers([], [], {END}) is None
