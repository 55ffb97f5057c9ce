"""One source of examples as a ``datasets.Dataset`` in memory. Callers that can should read :mod:`whet.data.stream`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow  # type: ignore[import-untyped]

from whet.data.parts import Row
from whet.data.stream import open_rows
from whet.errors import DataError


def read_rows(
    path: str | Path,
    *,
    name: str | None = None,
    split: str = "train",
    file_type: str | None = None,
    revision: str | None = None,
    data_files: str | Sequence[str] | None = None,
) -> datasets.Dataset:
    """All rows of one source; the arguments are those of :func:`whet.data.stream.open_rows`.

    Raises:
        DataError: as ``open_rows``; and a column that holds values of different kinds, which a Dataset cannot hold.
    """
    stream = open_rows(path, name=name, split=split, file_type=file_type, revision=revision, data_files=data_files)
    rows: list[Row] = []
    first = 1
    for batch in stream.batches():
        first = batch.first if not rows else first
        rows += batch.rows
    columns = {}
    for column in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(column) for row in rows]
        try:
            columns[column] = pyarrow.array(values)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise _mixed(stream.name, column, values, first) from error
    return datasets.Dataset(pyarrow.table(columns))


def _mixed(source: str, column: str, values: list[object], first: int) -> DataError:
    usual = next(value for value in values if value is not None)
    other = next((i for i, value in enumerate(values) if value is not None and type(value) is not type(usual)), 0)
    given = f'{source}: row {first + other}: the column "{column}" holds {type(values[other]).__name__} here'
    return DataError(given, f"{type(usual).__name__}, as in the first row", "give every row the same kind of value")
