"""Errors that show the line and put a caret under the fault."""

from __future__ import annotations

import unicodedata

from whet.errors import DataError

WIDEST = 100  # characters of the line that are shown


def fault(text: str, at: int, given: str, expected: str = "", fix: str = "") -> DataError:
    """A ``DataError`` that shows the line of ``text`` with the character ``at``, and a caret below that character.

    Args:
        at: index into ``text``; its length means: at the end.
    """
    at = min(max(at, 0), len(text))
    start = text.rfind("\n", 0, at) + 1
    stop = text.find("\n", at)
    line, column = text[start : len(text) if stop < 0 else stop], at - start
    cut = max(0, column - WIDEST * 3 // 4)
    shown, column = _plain(line[cut : cut + WIDEST]), column - cut
    place = f" (line {text.count(chr(10), 0, at) + 1})" if "\n" in text else ""
    caret = " " * _width(shown[:column]) + "^"
    return DataError(f"{given}{place}\n    {shown}\n    {caret}", expected, fix)


def _plain(line: str) -> str:
    """The line with one blank for each character that a terminal would not show as one."""
    return "".join(character if character.isprintable() else " " for character in line)


def _width(text: str) -> int:
    """Columns of a terminal: East Asian wide characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(bool(unicodedata.combining(character)) for character in text)
