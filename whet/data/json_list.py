"""One JSON list of objects, read in pieces; and a JSON object that is, or holds, the rows, read whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from whet.console import notice
from whet.data.json_lines import HALF, SPACE, has_lone_surrogate, json_problem
from whet.data.lines import TextFile
from whet.data.parts import PIECE_ROWS, Damage, Piece, Row
from whet.errors import DataError

LARGE = 1 << 28  # bytes of a single JSON object from which on its memory is worth a remark
EXPECTED = "a list of objects"
_SPACE = re.compile(f"[{SPACE}]*")
_NEAR_END = 12  # characters: an escape or a literal cut off by the end of a chunk is reported at its beginning


def read_json(text: TextFile, damage: Damage) -> Iterator[Piece]:
    """The rows of a .json file that is not JSON lines.

    A list is read in pieces. ``{"data": [...]}`` with one list, a single object, and objects one after the other
    without a list around them need the whole file in memory.
    """
    if text.head.lstrip(SPACE).startswith("["):
        yield from _List(text, damage).pieces()
    else:
        yield from _whole(text, damage)


def _whole(text: TextFile, damage: Damage) -> Iterator[Piece]:
    if text.file.size > LARGE:
        notice(f"{text.place}: one JSON object is read whole; JSON lines (.jsonl) need less memory")
    content = "".join(chunk for chunk, _ in text.chunks())
    values = _values(content, text.place)
    if len(values) == 1 and isinstance(values[0], dict):
        lists = [name for name, value in values[0].items() if isinstance(value, list)]
        read_as = f'the list "{lists[0]}" of the JSON object' if len(lists) == 1 else "the JSON object as one row"
        notice(f"{text.place}: reads {read_as}")
        values = values[0][lists[0]] if len(lists) == 1 else values
    elif len(values) == 1:
        raise DataError(f"{text.place}: this JSON holds no rows", EXPECTED)
    rows = [row for number, row in enumerate(values, 1) if _is_row(row, number, True, text.place, damage)]
    yield Piece(rows, text.file.size)


def _values(content: str, place: str) -> list[Any]:
    """All values of a text, one after the other with only white space between them."""
    parse, values, at = json.JSONDecoder().raw_decode, [], len(content) - len(content.lstrip(SPACE))
    while at < len(content):
        try:
            value, at = parse(content, at)
        except (ValueError, RecursionError) as error:
            line = content.count("\n", 0, getattr(error, "pos", at)) + 1
            what = error.msg if isinstance(error, json.JSONDecodeError) else json_problem(error)
            raise DataError(f"{place}:{line}: damaged JSON: {what}", EXPECTED) from error
        values.append(value)
        at = _after_space(content, at)
    return values


def _after_space(content: str, at: int) -> int:
    found = _SPACE.match(content, at)
    return found.end() if found else at


def _is_row(row: Any, number: int, escapes: bool, place: str, damage: Damage) -> bool:
    if type(row) is not dict:
        damage.found(place, f"entry {number} is no JSON object, but {_kind(row)}", 'entries such as {"text": "..."}')
        return False
    if escapes and has_lone_surrogate(row):
        damage.found(f"{place}: entry {number}", f"it holds {HALF}", EXPECTED)
        return False
    return True


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


class _List:
    """Reads ``[ {...}, {...} ]`` from a growing buffer of which only the unread end is kept."""

    def __init__(self, text: TextFile, damage: Damage) -> None:
        self.text, self.damage = text, damage
        self.buffer, self.at = "", 0
        self.line = 1  # of the first character of the buffer
        self.entries = 0
        self.expects = "["  # "[", "first" (an entry or the end), "entry", "," (or the end), "end"

    def pieces(self) -> Iterator[Piece]:
        """The rows as they come.

        Raises:
            DataError: JSON that is damaged or not closed, with its line. It cannot be skipped: nobody knows where the
                next entry begins.
        """
        parts, held, wanted = [], 0, 0
        for chunk, done in self.text.chunks():
            parts.append(chunk)
            held += len(chunk)
            if chunk and held < wanted:  # an entry longer than the buffer: parse again only when there is much more
                continue
            self._refill("".join(parts))
            parts, held = [], 0
            rows = self._take(final=not chunk)
            wanted = 0 if rows else len(self.buffer)
            for start in range(0, len(rows), PIECE_ROWS):
                yield Piece(rows[start : start + PIECE_ROWS], done)
        if self.expects != "end":
            raise self._damaged("the list is not closed", self.at)

    def _refill(self, more: str) -> None:
        self.line += self.buffer.count("\n", 0, self.at)
        self.buffer = self.buffer[self.at :] + more
        self.at = 0

    def _take(self, final: bool) -> list[Row]:
        """The whole entries of the buffer; ``final``: nothing follows it."""
        rows: list[Row] = []
        parse, buffer = json.JSONDecoder().raw_decode, self.buffer
        escapes = "\\ud" in buffer or "\\uD" in buffer
        while True:
            at = self.at = _after_space(buffer, self.at)
            if at == len(buffer):
                return rows
            if not self._wants_entry(buffer[at]):
                continue
            try:
                row, self.at = parse(buffer, at)
            except (ValueError, RecursionError) as error:
                if not final and _cut_off(error, len(buffer)):
                    return rows
                what = error.msg if isinstance(error, json.JSONDecodeError) else json_problem(error)
                raise self._damaged(what, getattr(error, "pos", at)) from error
            self.entries += 1
            self.expects = ","
            if _is_row(row, self.entries, escapes, self.text.place, self.damage):
                rows.append(row)

    def _wants_entry(self, char: str) -> bool:
        """Whether an entry begins here; else the sign is taken."""
        if self.expects == "entry" or (self.expects == "first" and char != "]"):
            return True
        if self.expects == "[" and char == "[":
            self.expects = "first"
        elif char == "]" and self.expects in ("first", ","):
            self.expects = "end"
        elif char == "," and self.expects == ",":
            self.expects = "entry"
        else:
            wrong = "text after the end of the list" if self.expects == "end" else f'"{char}" where "," belongs'
            raise self._damaged(wrong, self.at)
        self.at += 1
        return False

    def _damaged(self, what: str, at: int) -> DataError:
        line = self.line + self.buffer.count("\n", 0, at)
        return DataError(f"{self.text.place}:{line}: damaged JSON: {what}", EXPECTED, "mend the file")


def _cut_off(error: Exception, length: int) -> bool:
    """Whether more text may mend it."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= length - _NEAR_END
