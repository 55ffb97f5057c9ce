"""CSV and TSV: cells stay the text they are (007 stays 007); only an empty cell is missing.

Quoting is that of RFC 4180: a cell in double quotes may hold delimiters and line breaks, and a quote in it is doubled.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator

from whet.console import notice
from whet.data.header import header_names
from whet.data.lines import TextFile
from whet.data.parts import PIECE_ROWS, Damage, Piece, Row
from whet.errors import DataError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
CELL_LIMIT = 1 << 24  # characters of one cell; a quote that is never closed would swallow the file
RESTARTS = 100  # quotes that are never closed: each is found only at the end, and reading begins anew behind it
LOOKED_AT = 50  # rows from which the delimiter is found
_END = "\0end"  # fed after the last line: a row of its own, unless a quote is still open. No other line holds a NUL.
_HINT = re.compile(r"sep=(.)\r?\n")  # the first line that Excel writes and reads

csv.field_size_limit(CELL_LIMIT)  # the module's own limit is 131,072 characters, less than a long document


def read_delimited(text: TextFile, delimiter: str, damage: Damage) -> Iterator[Piece]:
    """The rows under a header line. Too few cells: the rest is missing. More than the header: the line is damaged.

    Raises:
        DataError: a file without a header.
    """
    names: list[str] = []
    start = 1
    for _ in range(RESTARTS):
        reading = _Reading(text, delimiter, damage, start, names)
        yield from reading.pieces()
        if not reading.open_quote:
            break
        place = f"{text.place}:{reading.open_quote}"
        damage.found(place, "the line is damaged: a quote opens a cell and is never closed", 'each " with its partner')
        start, names = reading.open_quote + 1, reading.names
    else:
        raise DataError(f"{text.place}: {RESTARTS} quotes are opened and never closed", 'each " with its partner')
    if not reading.names:
        raise DataError(f"{text.place}: the file is empty", "a header and at least one row")


def delimiter_of(text: TextFile, usual: str) -> str:
    """The delimiter of a file: the one that cuts its first rows into equally many cells, most of them.

    Args:
        usual: taken where none does; another one is said.
    """
    hint = _HINT.match(text.head)
    if hint:
        return hint.group(1)
    best, found = 0.0, usual
    for delimiter in (usual, *DELIMITERS):
        score = _fit(text.head, delimiter)
        if score > best:
            best, found = score, delimiter
    if found != usual:
        notice(f"{text.place}: the cells are separated by {DELIMITERS[found]}")
    return found


def checked_delimiter(delimiter: str) -> str:
    r"""The one character that a user gave; ``\t`` written out and ``tab`` are a tab.

    Raises:
        DataError: anything else.
    """
    found = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(found) != 1 or found in '"\r\n\0':
        raise DataError(f"the delimiter {delimiter!r} cannot be used", 'one character, such as ";" or "\\t"')
    return found


def _fit(head: str, delimiter: str) -> float:
    """How well a delimiter cuts: the share of rows with as many cells as the header, then the number of cells."""
    lines = head.rpartition("\n")[0] or head  # the last line may be cut off
    try:
        rows = list(itertools.islice(csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter), LOOKED_AT))
    except csv.Error:
        return 0.0
    widths = [len(row) for row in rows if row]
    if not widths or widths[0] < 2:
        return 0.0
    return sum(width == widths[0] for width in widths) / len(widths) + min(widths[0], 999) / 1000


class _Feed:
    """The lines of a file for ``csv.reader``, from line ``start`` on, and what is known of the block they stand in."""

    def __init__(self, text: TextFile, start: int) -> None:
        self.text, self.start = text, start
        self.block = self.done = 0
        self.bad: dict[int, str] = {}
        self.over = False  # the last line has been fed
        self.careful = False  # some line is bad, or the end is near: rows must be looked at

    def lines(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self._blocks())

    def _blocks(self) -> Iterator[io.StringIO | list[str]]:
        for block in self.text.blocks():
            behind = self.start - block.first
            lines = block.text
            if behind > 0:
                lines = lines.split("\n", behind)[behind] if lines.count("\n") >= behind else ""
            self.block += 1
            self.done = block.done
            self.bad |= block.bad
            self.careful = bool(self.bad)
            yield io.StringIO(lines, newline="\n")
        self.careful = self.over = True
        yield [_END]


class _Reading:
    """One pass over the rows from a line on.

    ``open_quote``: after it, the line of a quote that is never closed; 0 without one. ``names``: the header.
    """

    def __init__(self, text: TextFile, delimiter: str, damage: Damage, start: int, names: list[str]) -> None:
        self.text, self.damage, self.names = text, damage, names
        self.feed = _Feed(text, start)
        self.rows = csv.reader(self.feed.lines(), delimiter=delimiter)
        self.before = 0  # lines of the feed that earlier rows took
        self.open_quote = 0

    def pieces(self) -> Iterator[Piece]:
        if not self.names:
            self._header()
        names, width, feed, reader = self.names, len(self.names), self.feed, self.rows
        found: list[Row] = []
        block = feed.block
        while names and not self.open_quote:
            try:
                for given in reader:
                    cells: list[str | None] | None = given  # type: ignore[assignment]
                    if len(given) != width or feed.careful:
                        cells = self._checked(given)
                    self.before = reader.line_num
                    if cells is None:
                        continue
                    if "" in cells:
                        cells = [cell or None for cell in cells]
                    found.append(dict(zip(names, cells, strict=True)))
                    if len(found) == PIECE_ROWS or feed.block != block:
                        yield Piece(found, feed.done)
                        found, block = [], feed.block
                break
            except csv.Error as error:
                self._broken(error)
        yield Piece(found, feed.done)

    def _header(self) -> None:
        try:
            for cells in self.rows:
                if self._is_end(cells):
                    return
                line, self.before = self.feed.start + self.before, self.rows.line_num
                if line in self.feed.bad:
                    raise DataError(f"{self.text.place}:{line}: {self.feed.bad[line]}", self.text.expected)
                hint = line == 1 and _HINT.match(self.text.head)
                if any(cell.strip() for cell in cells) and not hint:
                    self.names = header_names(cells, self.text.place)
                    return
        except csv.Error as error:
            raise DataError(f"{self.text.place}: the header is damaged: {error}", "names of columns") from error

    def _checked(self, cells: list[str]) -> list[str | None] | None:
        """A row that is not plainly right: filled up, or None where it is empty, damaged or the end."""
        if not cells or self._is_end(cells):
            return None
        feed, width = self.feed, len(self.names)
        first, last = feed.start + self.before, feed.start + self.rows.line_num - 1
        wrong = next((number for number in range(first, last + 1) if number in feed.bad), None) if feed.bad else None
        if wrong is not None:
            self.damage.found(f"{self.text.place}:{wrong}", feed.bad[wrong], self.text.expected)
            return None
        if any(cells[width:]):
            what = f"the line is damaged: {len(cells)} cells under a header of {width}"
            self.damage.found(f"{self.text.place}:{first}", what, "as many cells as the header has, at most")
            return None
        return [*cells[:width], *[None] * (width - len(cells))]

    def _is_end(self, cells: list[str]) -> bool:
        """Whether the lines are over; with a quote open, they are over inside of a cell."""
        if not self.feed.over or not cells or not cells[-1].endswith(_END):
            return False
        if cells != [_END]:
            self.open_quote = self.feed.start + self.before
        return True

    def _broken(self, error: csv.Error) -> None:
        line = self.feed.start + self.before
        self.before = self.rows.line_num
        if "field limit" in str(error):
            self.open_quote = line
            return
        what = "a carriage return in the middle" if "new-line" in str(error) else str(error)
        self.damage.found(f"{self.text.place}:{line}", f"the line is damaged: {what}", "one row on each line")
