"""What differs between two texts, word by word; scripts without spaces between words go character by character."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import NamedTuple

MOST_WORK = 4_000_000  # words of one text x words of the other; longer texts are compared line by line
_JOINERS = "\u200c\u200d_'’"
# Scripts that put no space between words: Thai to Burmese, Khmer, kana, bopomofo, Han and its extensions.
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x312F), (0x31A0, 0x31FF),
             (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))  # fmt: skip


class Piece(NamedTuple):
    """A stretch of a text, and whether the other text has it too."""

    text: str
    same: bool


def word_diff(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces; joined, the pieces of each are the text."""
    a, b = list(words(first)), list(words(second))
    if len(a) * len(b) > MOST_WORK:
        a, b = first.splitlines(keepends=True), second.splitlines(keepends=True)
    left: list[Piece] = []
    right: list[Piece] = []
    for kind, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if a1 > a0:
            left.append(Piece("".join(a[a0:a1]), kind == "equal"))
        if b1 > b0:
            right.append(Piece("".join(b[b0:b1]), kind == "equal"))
    return left, right


def words(text: str) -> Iterator[str]:
    """The text as words, stretches of white space, and single other characters; joined, they are the text.

    A mark (an accent, a vowel sign) stays with the character before it.
    """
    start, kind = 0, ""
    for place, character in enumerate(text):
        new = _kind(character)
        if new == "mark" and place:
            continue
        if place and (new != kind or kind in ("single", "unspaced")):
            yield text[start:place]
            start = place
        kind = new
    if text:
        yield text[start:]


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    code = ord(character)
    if category[0] == "M" or code in (0x200C, 0x200D):
        return "mark"
    if any(low <= code <= high for low, high in _UNSPACED) and category[0] in "LN":
        return "unspaced"
    if category[0] in "LN" or character in _JOINERS:
        return "word"
    return "space" if character.isspace() else "single"
