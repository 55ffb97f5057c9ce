"""A format text with fields, filled fast, and where in the result the cells of the data stand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from whet.errors import DataError

Span = tuple[int, int]
_PIECE = re.compile(r"(\{\{|\}\}|\{[A-Za-z_]\w*\})")
_LITERAL = {"{{": "{", "}}": "}"}


class Frame:
    """``str.format`` with exactly the names in ``names``; braces around anything that is no name stay as they are.

    Args:
        text: the format.
        names: the fields that it may hold; ``fill`` takes their values in this order.
        key: the config key it comes from, for messages.

    Raises:
        DataError: a field that is not in ``names``.
    """

    def __init__(self, text: str, names: Sequence[str], key: str) -> None:
        self._parts: list[tuple[str, int]] = []  # a literal and the field behind it
        literal = ""
        for index, piece in enumerate(_PIECE.split(text)):
            if index % 2 == 0 or piece in _LITERAL:
                literal += _LITERAL.get(piece, piece) if index % 2 else piece
            elif piece[1:-1] in names:
                self._parts.append((literal, names.index(piece[1:-1])))
                literal = ""
            else:
                raise _unknown_field(piece, names, key)
        self._end = literal

    def fill(self, values: Sequence[str], spans: list[Span], start: int = 0) -> str:
        """The text; the ranges of the values in it are added to ``spans``, counted from ``start``."""
        done = ""
        for literal, field in self._parts:
            done += literal
            value = values[field]
            if value:
                at = start + len(done)
                add_span(spans, at, at + len(value))
                done += value
        return done + self._end


def add_span(spans: list[Span], start: int, end: int) -> None:
    """Append a range; one that begins where the last one ends makes it longer, so that no text hides in the seam."""
    if spans and spans[-1][1] == start:
        spans[-1] = (spans[-1][0], end)
    else:
        spans.append((start, end))


def _unknown_field(piece: str, names: Sequence[str], key: str) -> DataError:
    known = " and ".join(f"{{{name}}}" for name in names)
    fix = "the answer follows the format by itself: leave it out" if piece == "{output}" else "correct the format"
    return DataError(f"{key} holds {piece}", known, fix)
