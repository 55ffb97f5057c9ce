"""Rows to records in one call, for the tests of formats."""

from __future__ import annotations

from typing import Any

import datasets
import pytest

from whet.data.formats import FormatResult, FormatSpec, open_records, to_records
from whet.data.records import Record
from whet.data.stream import RowStream, rows_of
from whet.errors import DataError


def stream(rows: list[dict[str, Any]]) -> RowStream:
    """A stream over rows as they are, as a JSONL file gives them."""
    return rows_of(rows)


def read(rows: list[dict[str, Any]], **fields: Any) -> FormatResult:
    records = open_records(stream(rows), FormatSpec(**fields))
    return FormatResult(list(records), dict(records.dropped), records.reason)


def made(row: dict[str, Any], **fields: Any) -> Record:
    """The one record of one row."""
    (record,) = read([row], **fields).records
    return record


def from_arrow(rows: list[dict[str, Any]], **fields: Any) -> FormatResult:
    """The same through a data set, whose structs give every message the keys of all."""
    return to_records(datasets.Dataset.from_list(rows), FormatSpec(**fields))


def refused(rows: list[dict[str, Any]], **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(rows, **fields)
    return str(caught.value)
