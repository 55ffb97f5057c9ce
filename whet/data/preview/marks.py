"""White space and invisible characters that matter, made visible.

A space matters at the start or end of a line, beside another space, and where trained text begins or ends. Line breaks,
tabs and invisible characters always do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from whet.data.preview.pieces import Piece

Kind = Literal["text", "space", "tab", "break", "odd"]
SPACE, TAB, BREAK = "·", "→", "↵"


class Marked(NamedTuple):
    """A stretch of one piece; ``kind`` says what has to be made visible."""

    text: str
    kind: Kind


def marked(pieces: Sequence[Piece]) -> list[list[Marked]]:
    """The stretches of each piece; joined together they are the text of the piece."""
    text = "".join(piece.text for piece in pieces)
    borders = set(_borders(pieces))
    found, start = [], 0
    for piece in pieces:
        stop = start + len(piece.text)
        kinds = [(text[i], _kind(text, i, borders)) for i in range(start, stop)]
        found.append([Marked("".join(c for c, _ in run), kind) for kind, run in groupby(kinds, lambda item: item[1])])
        start = stop
    return found


def shortened(
    pieces: Sequence[Piece], longest: int, head: int, tail: int
) -> Iterator[tuple[Piece | None, list[Marked], int]]:
    """Each piece with its stretches; of a longer run of trained (or untrained) ones the beginning and the end.

    Args:
        longest: pieces of a run that is given whole.
        head, tail: pieces that are given of a longer one.

    Yields:
        (piece, its stretches, 0), or for a gap (None, [], pieces left out).
    """
    stretches = list(zip(pieces, marked(pieces), strict=True))
    for _, group in groupby(stretches, lambda pair: pair[0].trained):
        run = [(piece, parts, 0) for piece, parts in group]
        if len(run) <= longest:
            yield from run
        else:
            yield from run[:head]
            yield None, [], len(run) - head - tail
            yield from run[-tail:]


def code_point(character: str) -> str:
    """An invisible character by its number: ``U+00A0``."""
    return f"U+{ord(character):04X}"


def _borders(pieces: Sequence[Piece]) -> Iterator[int]:
    """Where trained text begins or ends, or a special token does."""
    place = 0
    before: Piece | None = None
    for piece in pieces:
        if before is not None and (piece.trained != before.trained or piece.special != before.special):
            yield place
        place += len(piece.text)
        before = piece
    yield place


def _kind(text: str, at: int, borders: set[int]) -> Kind:
    character = text[at]
    if character == " ":
        beside = (text[at - 1] if at else "\n") + (text[at + 1] if at + 1 < len(text) else "\n")
        return "space" if set(beside) & set(" \n\t\r") or {at, at + 1} & borders else "text"
    if character == "\n":
        return "break"
    if character == "\t":
        return "tab"
    return "odd" if unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp", "Cs") else "text"
