"""Reading one local file of rows: json, jsonl, csv, tsv, parquet.

``datasets.load_dataset`` is not used here, so that a damaged line is named by its number, nothing is copied into a
cache, and the cells of a CSV stay the text they are (007 stays 007).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas  # type: ignore[import-untyped]
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from whet.errors import DataError

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
KINDS = sorted(set(SUFFIXES.values()))


def read_table(file: Path, file_type: str | None) -> pyarrow.Table:
    """The rows of one file.

    Raises:
        DataError: an unknown format, an empty or damaged file, with its line where known.
    """
    kind = file_type or SUFFIXES.get(file.suffix.lower())
    readers: dict[str, Callable[[Path], pyarrow.Table]] = {
        "jsonl": _read_jsonl,
        "json": _read_json,
        "csv": _read_csv,
        "tsv": lambda file: _read_csv(file, "\t"),
        "parquet": _read_parquet,
    }
    if kind not in readers:
        given = f"{file}: the format {kind or file.suffix or '(no suffix)'} is not known"
        raise DataError(given, f"one of {', '.join(KINDS)}", "set ds_type for this data set")
    try:
        if file.stat().st_size == 0:
            raise DataError(f"{file}: the file is empty", "at least one row")
        table = readers[kind](file)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: not UTF-8 text", "a file in UTF-8", "save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})", "a readable file") from error
    if table.num_rows == 0:
        raise DataError(f"{file}: the file holds no rows", "at least one row")
    return table


def _read_jsonl(file: Path) -> pyarrow.Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            given = f"{file}:{number}: the line is damaged: {error.msg} at character {error.pos + 1}"
            raise DataError(given, "one JSON object on each line", "mend or remove the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}:{number}: the line is no JSON object", 'a line such as {"text": "..."}')
        rows.append(row)
        lines.append(number)
    return _table(file, rows, lambda index: f"{file}:{lines[index]}")


def _read_json(file: Path) -> pyarrow.Table:
    text = file.read_text(encoding="utf-8-sig")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _read_jsonl(file)  # one object a line under the name .json is common
        raise DataError(f"{file}:{error.lineno}: damaged JSON: {error.msg}", "a list of objects") from error
    if isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else [data]
    if not isinstance(data, list):
        raise DataError(f"{file}: this JSON holds no rows", "a list of objects")
    for index, row in enumerate(data):
        if not isinstance(row, dict):
            raise DataError(f"{file}: entry {index + 1} is no JSON object", 'entries such as {"text": "..."}')
    return _table(file, data, lambda index: f"{file}: entry {index + 1}")


def _table(file: Path, rows: list[dict[str, Any]], place: Callable[[int], str]) -> pyarrow.Table:
    """Columns of all rows together; a row that lacks one holds null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise _mixed_column(name, values, place) from error
    return pyarrow.table(columns)


def _mixed_column(name: str, values: list[Any], place: Callable[[int], str]) -> DataError:
    first = next(value for value in values if value is not None)
    other = next(
        (index for index, value in enumerate(values) if value is not None and type(value) is not type(first)), 0
    )
    given = f'{place(other)}: the column "{name}" holds {type(values[other]).__name__} here'
    return DataError(given, f"{type(first).__name__}, as in the first row", "give every row the same kind of value")


def _read_csv(file: Path, separator: str | None = None) -> pyarrow.Table:
    if separator is None:
        with file.open(encoding="utf-8-sig") as opened:
            header = opened.readline()
        separator = (
            ";" if ";" in header and "," not in header else "\t" if "\t" in header and "," not in header else ","
        )
    try:
        # Every cell stays text; only an empty cell is missing ("NA" and "None" may be answers).
        frame = pandas.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig"
        )
    except pandas.errors.EmptyDataError as error:
        raise DataError(f"{file}: the file is empty", "a header and at least one row") from error
    except pandas.errors.ParserError as error:
        found = re.search(r"line (\d+)", str(error))
        place = f"{file}:{found.group(1)}" if found else str(file)
        text = str(error).replace("Error tokenizing data. C error: ", "").strip()
        raise DataError(f"{place}: the line is damaged: {text}", "as many cells as the header has") from error
    return pyarrow.Table.from_pandas(frame, preserve_index=False)


def _read_parquet(file: Path) -> pyarrow.Table:
    try:
        return pyarrow.parquet.read_table(file)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{file}: damaged, or no parquet file: {error}", "a parquet file") from error
