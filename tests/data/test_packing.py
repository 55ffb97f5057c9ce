"""Bins and groups: every row once, never above the budget, the same every time, close to the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.packing import pack

LENGTHS = st.lists(st.integers(1, 64), max_size=200)


def plain_best_fit(lengths, budget):
    """The same rule, one row at a time: the specification."""
    rooms: list[int] = []
    for size in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= size]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= size
        else:
            rooms.append(budget - size)
    return sorted(rooms)


@given(LENGTHS)
def test_bins_are_those_of_best_fit_decreasing(lengths):
    bins = pack(lengths, 64)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    rooms = sorted(64 - sum(lengths[row] for row in rows) for rows in bins)
    assert all(room >= 0 for room in rooms)
    assert rooms == plain_best_fit(lengths, 64)


def test_a_large_set_is_packed_tightly_and_the_same_every_time():
    lengths = np.random.default_rng(0).integers(20, 700, 100_000)
    bins = pack(lengths, 2048)
    assert bins == pack(lengths, 2048)
    assert sorted(row for rows in bins for row in rows) == list(range(100_000))
    assert lengths.sum() / (len(bins) * 2048) > 0.99


def test_rows_that_cannot_fit_are_refused():
    with pytest.raises(ValueError, match="1 to 10"):
        pack([3, 11], 10)
    with pytest.raises(ValueError, match="1 to 10"):
        pack([0], 10)
    assert pack([], 10) == []
