"""Runs the gold queries while the sample is made, and says which answers are worth asking for."""

from __future__ import annotations

import sqlite3

Answer = tuple[tuple[object, ...], ...]

MAX_ROWS = 40  # a longer list is no answer that people ask for


class Answers:
    """Gold answers from one open database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def answer(self, sql: str) -> Answer:
        """The result as a multiset: sorted rows, numbers rounded. Equal answers mean that one query fits both."""
        rows = self._connection.execute(sql).fetchall()
        return tuple(sorted((tuple(_rounded(cell) for cell in row) for row in rows), key=repr))

    def usable(self, sql: str) -> bool:
        """Neither empty nor too long, something else than NULL and 0, and the same in whatever order rows are read."""
        rows = self._connection.execute(sql).fetchall()
        if not 0 < len(rows) <= MAX_ROWS or not any(cell for row in rows for cell in row):
            return False
        return " ORDER BY " not in sql or rows == self._in_reverse(sql)

    def _in_reverse(self, sql: str) -> list[tuple[object, ...]]:
        """Read the tables backwards: a tie in the ORDER BY then shows as another order."""
        self._connection.execute("PRAGMA reverse_unordered_selects = ON")
        try:
            return self._connection.execute(sql).fetchall()
        finally:
            self._connection.execute("PRAGMA reverse_unordered_selects = OFF")


def _rounded(cell: object) -> object:
    return round(float(cell), 4) if isinstance(cell, int | float) else cell
