"""Cells, columns, and why a row is left out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from whet.data.cell_text import cell_text
from whet.data.records import Record
from whet.errors import DataError

NO_ANSWER = "no answer"
NO_PROMPT = "no prompt"
NO_TEXT = "no text"

Row = Mapping[str, Any]
Make = Callable[[Row], Record | str]  # a record, or the reason why the row is left out


def cell(value: Any) -> str:
    """A cell as text: a text as it is, a missing value empty, others as ``cell_text`` writes them (23.0 is 23)."""
    return value if isinstance(value, str) else cell_text(value) or ""


def is_missing(value: Any) -> bool:
    """None, NaN, NaT and pandas' NA."""
    return value is None or (not isinstance(value, str | list | dict) and cell_text(value) is None)


def need(columns: Sequence[str], name: str, key: str = "") -> str:
    """``name``, if it is a column.

    Args:
        key: the config key that names it, for the message.

    Raises:
        DataError: no such column, with the nearest one.
    """
    if name in columns:
        return name
    found = difflib.get_close_matches(name, columns, n=1, cutoff=0.0)
    fix = f'did you mean "{found[0]}"?' if found else ""
    if key:
        fix = f"{fix} set {key}".strip()
    raise DataError(f'the rows have no column "{name}"', f"one of {', '.join(columns)}", fix)


def first_of(columns: Iterable[str], wanted: Iterable[str | None]) -> str | None:
    """The first name of ``wanted`` that is a column."""
    here = set(columns)
    return next((name for name in wanted if name in here), None)
