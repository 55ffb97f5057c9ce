"""Execution accuracy: does a predicted query give the same result as the gold query?

The measure of Spider and WikiSQL's "execution accuracy" (Zhong et al. 2017, arXiv:1709.00103), on SQLite.
A prediction is untrusted text: it runs read-only, alone, for a limited time and in limited memory.
"""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

from whet.errors import DataError

Rows = list[tuple[object, ...]]

RELATIVE_TOLERANCE = 1e-6  # sums of floats differ with the order in which SQLite reads the rows
ABSOLUTE_TOLERANCE = 1e-9
MAX_VALUE_BYTES = 1_000_000  # of one string or blob: zeroblob(1e9) is one short query
MAX_QUERY_BYTES = 20_000
GOLD_TIMEOUT_S = 30.0

_STEPS_BETWEEN_CHECKS = 1_000  # SQLite operations; a check of the clock then costs nothing measurable
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ORDER_BY = re.compile(r"\border\s+by\b", re.IGNORECASE)


def execution_match(database: Path, gold_sql: str, predicted_sql: str, timeout_s: float = 2.0) -> bool:
    """Whether both queries give the same result.

    The order of rows counts only where the gold query has an ORDER BY of its own; the order of columns always counts.
    Numbers are compared with a tolerance. A prediction that fails, writes, holds two statements or takes longer than
    ``timeout_s`` seconds is wrong; it never raises and never changes the database.

    Raises:
        DataError: the database or the gold query cannot be used.
    """
    with closing(_open_read_only(database)) as connection:
        return _match(connection, gold_sql, predicted_sql, timeout_s)


def sql_accuracy(database: Path, pairs: Iterable[tuple[str, str]], timeout_s: float = 2.0) -> list[bool]:
    """``execution_match`` for each pair (gold, predicted), over one connection."""
    with closing(_open_read_only(database)) as connection:
        return [_match(connection, gold, predicted, timeout_s) for gold, predicted in pairs]


def run_query(database: Path, sql: str, timeout_s: float = 2.0, max_rows: int = 1_000) -> tuple[list[str], Rows]:
    """Column names and rows of one untrusted query, under the same limits.

    Raises:
        DataError: the database cannot be opened or the query fails; the message says why.
    """
    with closing(_open_read_only(database)) as connection:
        try:
            return _fetch(connection, sql, timeout_s, max_rows)
        except _QUERY_ERRORS as error:
            raise DataError(f"the query failed: {error}", fix=f"look at the query: {sql}") from error


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share of k in n (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Raises:
        ValueError: k is not within 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"k must be within 0 and n, got k={k}, n={n}")
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054  # the normal distribution's 97.5% quantile
    share, z2n = k / n, z * z / n
    centre = (share + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(share * (1 - share) / n + z2n / (4 * n))
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


_QUERY_ERRORS = (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError)
"""All that sqlite3 raises for a bad query: ValueError covers NUL characters and lone surrogates."""


def _open_read_only(database: Path) -> sqlite3.Connection:
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(f"{Path(database).resolve().as_uri()}?mode=ro", uri=True)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise DataError(f"cannot open {database}: {error}", "an SQLite database file") from error
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_QUERY_BYTES)
    connection.set_authorizer(_only_reads)
    return connection


def _only_reads(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _match(connection: sqlite3.Connection, gold_sql: str, predicted_sql: str, timeout_s: float) -> bool:
    try:
        _, gold = _fetch(connection, gold_sql, GOLD_TIMEOUT_S, None)
    except _QUERY_ERRORS as error:
        raise DataError(f"the gold query failed: {error}", "SQL that runs", f"correct: {gold_sql}") from error
    try:
        _, predicted = _fetch(connection, predicted_sql, timeout_s, len(gold) + 1)
    except _QUERY_ERRORS:
        return False
    return _same_in_order(gold, predicted) if _is_ordered(gold_sql) else _same_rows(gold, predicted)


def _fetch(connection: sqlite3.Connection, sql: str, timeout_s: float, max_rows: int | None) -> tuple[list[str], Rows]:
    """Run one query; SQLite asks the clock as it works and stops when the time is over."""
    connection.set_progress_handler(_deadline(timeout_s), _STEPS_BETWEEN_CHECKS)
    try:
        cursor = connection.execute(sql)
        if cursor.description is None:
            raise sqlite3.ProgrammingError("not a query")
        rows = cursor.fetchall() if max_rows is None else cursor.fetchmany(max_rows)
        cursor.close()
    finally:
        connection.set_progress_handler(None, 0)
    return [column[0] for column in cursor.description], rows


def _deadline(timeout_s: float) -> Callable[[], bool]:
    end = time.monotonic() + timeout_s
    return lambda: time.monotonic() > end


def _is_ordered(sql: str) -> bool:
    """Whether the query itself has an ORDER BY: one in a subquery or a string says nothing about the result."""
    text = _QUOTED.sub(" ", sql)
    inner = re.compile(r"\([^()]*\)")
    while inner.search(text):
        text = inner.sub(" ", text)
    return _ORDER_BY.search(text) is not None


def _same_in_order(gold: Rows, predicted: Rows) -> bool:
    return len(gold) == len(predicted) and all(map(_same_row, gold, predicted))


def _same_rows(gold: Rows, predicted: Rows) -> bool:
    """Equal as multisets: equal rows first, then each row left finds a partner within the tolerance."""
    if len(gold) != len(predicted):
        return False
    left = list((Counter(gold) - Counter(predicted)).elements())
    open_rows = list((Counter(predicted) - Counter(gold)).elements())
    for row in left:
        partner = next((i for i, other in enumerate(open_rows) if _same_row(row, other)), None)
        if partner is None:
            return False
        del open_rows[partner]
    return True


def _same_row(gold: tuple[object, ...], predicted: tuple[object, ...]) -> bool:
    return len(gold) == len(predicted) and all(map(_same_cell, gold, predicted))


def _same_cell(gold: object, predicted: object) -> bool:
    if isinstance(gold, int | float) and isinstance(predicted, int | float):
        return math.isclose(gold, predicted, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    return gold == predicted
