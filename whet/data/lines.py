"""Text files as blocks of whole lines: decoded, numbered, a megabyte at a time."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from whet.console import notice
from whet.data.compressed import Opened, Stored, open_stored, reading
from whet.data.encoding import BOMS, checked_encoding, detect, with_byte_order
from whet.data.parts import Damage, Piece
from whet.errors import DataError

BLOCK = 1 << 20  # bytes read at once
SAMPLE = 1 << 16  # bytes from which encoding, line break and delimiter are found
SEARCHED = 1 << 24  # bytes in which text beyond ASCII is looked for
NUL_BYTE = "the line holds a NUL byte"


class Block(NamedTuple):
    """Whole lines, each ended by ``\\n`` (``\\r`` before it stays).

    ``first``: number of its first line, from 1; ``bad``: what is wrong with a line, by its number; ``done``: bytes of
    the file on the disk that have been read.
    """

    text: str
    first: int
    bad: dict[int, str]
    done: int


@dataclass(frozen=True)
class TextFile:
    """A text file and how its bytes are to be understood. ``head``: its beginning; ``whole``: that is all of it."""

    file: Stored
    encoding: str
    newline: bytes
    head: str
    whole: bool

    @property
    def place(self) -> str:
        """How messages name it."""
        return self.file.place

    @property
    def expected(self) -> str:
        """What its lines should be, for messages."""
        return f"text in {self.encoding.upper()} (or set encoding for this data set)"

    def blocks(self) -> Iterator[Block]:
        """The file from its beginning. A line that does not decode, or holds a NUL byte, is named in ``Block.bad``."""
        number = 1
        with reading(self.place), open_stored(self.file) as opened:
            for data in _whole_lines(opened.stream, self.newline):
                text, bad = self._decode(data, number)
                yield Block(text, number, bad, opened.done())
                number += text.count("\n")

    def chunks(self) -> Iterator[tuple[str, int]]:
        """The text in pieces that may end anywhere, with the bytes read so far; only the last piece is empty.

        Raises:
            DataError: bytes that do not decode, with their line.
        """
        decoder = codecs.getincrementaldecoder(self.encoding)()
        line, mark = 1, "\ufeff"
        with reading(self.place), open_stored(self.file) as opened:
            while True:
                data = opened.stream.read(BLOCK)
                try:
                    text = decoder.decode(data, not data)
                except UnicodeDecodeError as error:
                    line += error.object.count(self.newline, 0, error.start)
                    what = f"{self.place}:{line}: not {self.encoding.upper()} text"
                    raise DataError(what, self.expected, "save the file as UTF-8, or set encoding") from error
                line += text.count("\n")
                if text:
                    text, mark = text.removeprefix(mark), ""
                if text or not data:
                    yield text, opened.done()
                if not data:
                    return

    def _decode(self, data: bytes, first: int) -> tuple[str, dict[int, str]]:
        bad: dict[int, str] = {}
        try:
            text = data.decode(self.encoding)
        except UnicodeDecodeError:
            text, bad = self._decode_lines(data, first)
        if self.newline != "\n".encode(self.encoding):
            text = text.replace("\r", "\n")
        if first == 1:
            text = text.removeprefix("\ufeff")
        if "\0" in text:
            bad |= {first + i: NUL_BYTE for i, line in enumerate(text.split("\n")) if "\0" in line}
        return (text if text.endswith("\n") else text + "\n"), bad

    def _decode_lines(self, data: bytes, first: int) -> tuple[str, dict[int, str]]:
        """Line by line, so that one damaged line costs no other."""
        lines, bad = [], {}
        for number, line in enumerate(_split(data, self.newline), first):
            try:
                lines.append(line.decode(self.encoding))
            except UnicodeDecodeError as error:
                lines.append(line.decode(self.encoding, errors="replace").replace("\n", " "))
                bad[number] = f"not {self.encoding.upper()} text at byte {error.start + 1} of the line"
        return self.newline.decode(self.encoding).join(lines), bad


def text_file(file: Stored, encoding: str | None) -> TextFile:
    """Look at a file: its encoding (said where it is a guess) and its line break (``\\n``, or ``\\r`` alone).

    Raises:
        DataError: an unknown ``encoding``, a file that cannot be read.
    """
    with reading(file.place), open_stored(file) as opened:
        head = opened.stream.read(SAMPLE)
        sample = head if encoding else _beyond_ascii(head, opened)
    if encoding:
        found = with_byte_order(checked_encoding(encoding), head)
    else:
        found, guessed = detect(head, sample)
        if guessed:
            notice(f"{file.place}: read as {found}, a guess from its bytes; set encoding if the text looks wrong")
    text = codecs.getincrementaldecoder(found)("replace").decode(head, len(head) < SAMPLE).removeprefix("\ufeff")
    old_mac = "\r" in text[:-1] and "\n" not in text
    return TextFile(file, found, ("\r" if old_mac else "\n").encode(found), text, len(head) < SAMPLE)


def read_plain(text: TextFile, unit: str | None, damage: Damage) -> Iterator[Piece]:
    """Plain text: every line is one row ``{"text": line}``; empty lines are left out.

    Args:
        unit: "paragraph" (up to an empty line) or "document" (the file) instead of a line.
    """
    if unit in ("paragraph", "document"):
        yield from _read_larger(text, unit, damage)
        return
    notice(f"{text.place}: plain text, every line is one row (sample_by: document makes the file one)")
    for block in text.blocks():
        rows = []
        for number, line in enumerate(block.text.split("\n"), block.first):
            if number in block.bad:
                damage.found(f"{text.place}:{number}", block.bad[number], text.expected)
            elif line.strip():
                rows.append({"text": line.removesuffix("\r")})
        yield Piece(rows, block.done)


def _read_larger(text: TextFile, unit: str, damage: Damage) -> Iterator[Piece]:
    """Rows of several lines, without damaged ones; the line breaks inside stay."""
    held: list[str] = []
    done = 0
    for block in text.blocks():
        rows: list[dict[str, str]] = []
        done = block.done
        for number, line in enumerate(block.text.removesuffix("\n").split("\n"), block.first):
            if number in block.bad:
                damage.found(f"{text.place}:{number}", block.bad[number], text.expected)
            elif unit == "paragraph" and not line.strip():
                rows += _row_of(held)
                held = []
            else:
                held.append(line.removesuffix("\r"))
        yield Piece(rows, done)
    yield Piece(_row_of(held), done)


def _row_of(lines: list[str]) -> list[dict[str, str]]:
    text = "\n".join(lines)
    return [{"text": text}] if text.strip() else []


def _beyond_ascii(head: bytes, opened: Opened) -> bytes:
    """The first stretch of the file that is not pure ASCII, from the beginning of a line on; ``head`` without one."""
    if not head.isascii() or head.startswith(tuple(mark for mark, _ in BOMS)):
        return head
    block, searched = head, len(head)
    while searched < SEARCHED:
        before, block = block, opened.stream.read(SAMPLE)
        if not block:
            break
        if not block.isascii():
            whole = before + block + opened.stream.read(SAMPLE)
            return whole[whole.find(b"\n") + 1 :]
        searched += len(block)
    return head


def _whole_lines(stream: IO[bytes], newline: bytes) -> Iterator[bytes]:
    """Blocks that end at a line break, but for the last; a line longer than a block is read in growing steps."""
    rest = b""
    while True:
        data = stream.read(max(BLOCK, len(rest)))
        if not data:
            break
        rest += data
        cut = _after_last(rest, newline)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _after_last(data: bytes, newline: bytes) -> int:
    """Where the last line break ends; 0 without one. In UTF-16 its two bytes count only at an even place."""
    width = len(newline)
    start = data.rfind(newline)
    while start > 0 and start % width:
        start = data.rfind(newline, 0, start + width - 1)
    return start + width if start >= 0 and start % width == 0 else 0


def _split(data: bytes, newline: bytes) -> list[bytes]:
    if len(newline) == 1:
        return data.split(newline)
    lines, start, at = [], 0, data.find(newline)
    while at >= 0:
        if at % len(newline) == 0:
            lines.append(data[start:at])
            start = at + len(newline)
            at = data.find(newline, start)
        else:
            at = data.find(newline, at + 1)
    return [*lines, data[start:]]
