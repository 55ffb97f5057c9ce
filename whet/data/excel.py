"""Excel workbooks (.xlsx, .xlsm): one sheet, a header row, the values as Excel stored them.

Whole numbers stay ints, dates and times become ISO text, and the result of a formula is read, not the formula.
"""

from __future__ import annotations

import datetime
import difflib
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from whet.console import notice
from whet.data.compressed import Stored, reading, seekable
from whet.data.header import header_names
from whet.data.parts import PIECE_ROWS, Damage, Piece, Row
from whet.errors import DataError, MissingDependency

ERRORS = {"#N/A", "#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#NUM!", "#NULL!"}  # results of formulas: missing


def read_excel(file: Stored, sheet: str | None, damage: Damage) -> Iterator[Piece]:
    """The rows of one sheet. Empty rows are left out, empty cells are missing.

    Args:
        file: the workbook.
        sheet: its name; None: the first sheet (said where there are more).
        damage: told of rows with more cells than the header.

    Raises:
        DataError: no workbook, no such sheet, no header.
        MissingDependency: openpyxl is not installed.
    """
    with reading(file.place), seekable(file) as stream:
        book = _open(stream, file.place)
        try:
            cells = _sheet(book, sheet, file.place)
            total = max(cells.max_row or 0, 1)
            cells.reset_dimensions()  # the size that the file claims may be wrong
            yield from _pieces(_values(cells, file.place), file, total, damage)
        finally:
            book.close()


def _open(stream: Any, place: str) -> Any:
    if importlib.util.find_spec("openpyxl") is None:
        raise MissingDependency(f"{place}: openpyxl is not installed", fix="pip install 'whet[excel]'")
    openpyxl = importlib.import_module("openpyxl")
    try:
        return openpyxl.load_workbook(stream, read_only=True, data_only=True)
    except Exception as error:  # a zip, a dozen XML files and their parsers stand behind this call
        raise _no_workbook(place, error) from error


def _values(sheet: Any, place: str) -> Iterator[Sequence[Any]]:
    try:
        yield from sheet.iter_rows(values_only=True)
    except Exception as error:  # as in _open: a sheet is parsed while it is read
        raise _no_workbook(place, error) from error


def _no_workbook(place: str, error: Exception) -> DataError:
    what = f"{place}: no Excel workbook, damaged, or locked with a password: {error}"
    return DataError(what, "an .xlsx file", "save it again as .xlsx, without a password")


def _sheet(book: Any, name: str | None, place: str) -> Any:
    names = [sheet.title for sheet in book.worksheets]
    if not names:
        raise DataError(f"{place}: the workbook has no sheet with cells", "a sheet with a header and rows")
    if name is None:
        if len(names) > 1:
            notice(f'{place}: reads the sheet "{names[0]}" of {", ".join(names)}; set name for another')
        return book.worksheets[0]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise DataError(f'{place}: no sheet "{name}"', f"one of {', '.join(names)}", f'did you mean "{near[0]}"?')
    return book[name]


def _pieces(rows: Iterator[Sequence[Any]], file: Stored, total: int, damage: Damage) -> Iterator[Piece]:
    names: list[str] = []
    found: list[Row] = []
    for number, given in enumerate(rows, 1):
        cells = [_value(cell) for cell in given]
        if all(cell is None for cell in cells):
            continue
        if not names:
            last = max(index for index, cell in enumerate(cells) if cell is not None)
            names = header_names(cells[: last + 1], file.place)
        elif any(cell is not None for cell in cells[len(names) :]):
            what = f"a cell stands right of the last of {len(names)} columns"
            damage.found(f"{file.place}:{number}", what, "a name above every cell")
        else:
            cells += [None] * (len(names) - len(cells))
            found.append(dict(zip(names, cells, strict=False)))
        if len(found) == PIECE_ROWS:
            yield Piece(found, min(file.size, file.size * number // total))
            found = []
    yield Piece(found, file.size)


def _value(cell: Any) -> Any:
    if isinstance(cell, str):
        if not cell or cell in ERRORS:
            return None
        return _unescaped(cell) if "_x" in cell else cell
    if isinstance(cell, datetime.datetime):
        midnight = cell.time() == datetime.time()  # Excel keeps a date as the moment it begins
        return cell.date().isoformat() if midnight else cell.isoformat()
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, datetime.timedelta) else cell


def _unescaped(text: str) -> str:
    r"""``_x000D_`` is a carriage return: ECMA-376 part 1, 22.9.2.19 (ST_Xstring)."""
    return str(importlib.import_module("openpyxl.utils.escape").unescape(text)).replace("\r\n", "\n")
