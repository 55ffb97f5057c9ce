"""Runs the gold queries while the sample is made, and says which answers are worth asking for."""

from __future__ import annotations

import sqlite3

Answer = tuple[tuple[object, ...], ...]

_LIMIT = " LIMIT "  # every template with ORDER BY has one, and nothing else has

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
        """Neither empty nor too long, something else than NULL and 0, and no tie that leaves the order open."""
        rows = self._connection.execute(sql).fetchall()
        if not 0 < len(rows) <= MAX_ROWS or not any(cell for row in rows for cell in row):
            return False
        return _LIMIT not in sql or all(self._with_last_key(sql, key) == rows for key in ("1", "1 DESC"))

    def _with_last_key(self, sql: str, key: str) -> list[tuple[object, ...]]:
        """The rows when a tie is broken by one more sort key (a number names a result column)."""
        return self._connection.execute(sql.replace(_LIMIT, f", {key}{_LIMIT}")).fetchall()


def _rounded(cell: object) -> object:
    return round(float(cell), 4) if isinstance(cell, int | float) else cell
