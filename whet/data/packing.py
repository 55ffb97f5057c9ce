"""Which rows share a sequence: plain functions from lengths to lists of row numbers."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int] | np.ndarray, budget: int) -> list[list[int]]:
    """Best-fit decreasing: longest rows first, each into the fullest bin that still has room.

    Rows of equal length are placed together: the bin that took one of them is the fullest that fits the next, so it is
    filled with as many as it holds. A million rows take about a second. The result depends on the lengths only.
    At most 11/9 of the best possible number of bins, plus one (Johnson 1973).

    Args:
        lengths: tokens of each row, 1 to ``budget``.
        budget: tokens of a bin.

    Returns:
        Row numbers of each bin; every row is in exactly one bin.

    Raises:
        ValueError: a length that is not in 1..budget.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size == 0:
        return []
    if sizes.min() < 1 or sizes.max() > budget:
        raise ValueError(f"lengths must be 1 to {budget} tokens, found {sizes.min()} to {sizes.max()}")
    order = np.argsort(-sizes, kind="stable")
    values, counts = np.unique(-sizes, return_counts=True)
    bins = _Bins(budget)
    rows, cursor = order.tolist(), 0
    for size, count in zip((-values).tolist(), counts.tolist(), strict=True):
        bins.place(rows[cursor : cursor + count], size)
        cursor += count
    return bins.contents


class _Bins:
    """Bins by the room left in them. ``rooms`` lists the room values that some open bin has, in order."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.contents: list[list[int]] = []
        self.rooms: list[int] = []
        self.by_room: dict[int, list[int]] = {}

    def place(self, rows: list[int], size: int) -> None:
        """Put rows that all have this size."""
        done = 0
        while done < len(rows):
            number, room = self._fullest(size)
            taken = min(room // size, len(rows) - done)
            self.contents[number].extend(rows[done : done + taken])
            done += taken
            self._leave_open(number, room - taken * size)

    def _fullest(self, size: int) -> tuple[int, int]:
        """Take out the bin with the least room that is enough, or open a new one."""
        at = bisect_left(self.rooms, size)
        if at == len(self.rooms):
            self.contents.append([])
            return len(self.contents) - 1, self.budget
        room = self.rooms[at]
        numbers = self.by_room[room]
        number = numbers.pop()
        if not numbers:
            del self.by_room[room], self.rooms[at]
        return number, room

    def _leave_open(self, number: int, room: int) -> None:
        if room == 0:
            return
        if room not in self.by_room:
            self.by_room[room] = []
            insort(self.rooms, room)
        self.by_room[room].append(number)
