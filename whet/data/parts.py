"""What a reader of one file gives, and what it does with a damaged line. Everything that reads rows shares these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from whet.errors import DataError

KEPT = 20  # damaged lines that are kept with their places; all are counted
PIECE_ROWS = 1000  # rows that a reader holds at most before it gives them on, where it can choose

Row = dict[str, Any]


class Piece(NamedTuple):
    """Some rows in order. ``done``: how much of the part's size has been read when these rows are known."""

    rows: list[Row]
    done: int


@dataclass
class Damage:
    """Damaged lines of one reading: the first is an error, or with ``skip`` they are counted and left out."""

    skip: bool = False
    count: int = 0
    first: list[str] = field(default_factory=list)

    def found(self, place: str, what: str, expected: str) -> None:
        """One damaged line, entry or row.

        Raises:
            DataError: damage is not skipped.
        """
        if not self.skip:
            raise DataError(f"{place}: {what}", expected, "mend or remove it, or set damaged: skip for this data set")
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(f"{place}: {what}")


@dataclass(frozen=True)
class Part:
    """One file, one member of an archive, or one table in memory.

    Args:
        name: how messages name it.
        size: its bytes on disk, or its rows: the unit of ``Piece.done``; None when nobody knows.
        read: its rows from the beginning; called once for each reading.
        count: the number of its rows, where that is known without reading them.
    """

    name: str
    size: int | None
    read: Callable[[Damage], Iterator[Piece]]
    count: Callable[[], int] | None = None
