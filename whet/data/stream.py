"""Rows of one source as a stream: in order, as often as one likes, never the whole file in memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets

from whet.console import notice, warn
from whet.data import hub
from whet.data.compressed import format_suffix, reading
from whet.data.files import file_parts
from whet.data.parts import PIECE_ROWS, Damage, Part, Piece, Row
from whet.data.places import find_files
from whet.data.slices import WHOLE, Slice, parse_split
from whet.errors import DataError

SAVED = ("dataset_info.json", "dataset_dict.json")  # what save_to_disk of the datasets library leaves in a folder
BATCH_BYTES = 1 << 23  # bytes read after which a batch is given even if it is not full: rows may be long


@dataclass(frozen=True)
class Batch:
    """Some rows in order.

    ``first``: number of the first row in the source, from 1 and before any slice, for messages. ``done``: how much of
    ``RowStream.size`` has been read.
    """

    rows: list[Row]
    first: int
    done: int


class RowStream:
    """The rows of one source.

    Args:
        name: what the user wrote.
        parts: its files or tables, in order.
        seal: gives a text that changes when the content does.
        span: which rows.
        skip: leave damaged lines out and count them; else the first one is an error.

    Attributes:
        columns: names of the columns in the first rows of every part together. A row that lacks one holds None there;
            a row of JSON may have more.
        size: the bytes on the disk, or rows of a table or of a slice, in the unit of ``Batch.done``; None: unknown.
            It is the most that a slice can have.

    Raises:
        DataError: a part without rows, or damaged at its beginning.
    """

    def __init__(
        self, name: str, parts: Sequence[Part], seal: Callable[[], str], *, span: Slice = WHOLE, skip: bool = False
    ) -> None:
        self.name = name
        self._parts, self._seal, self._span, self._skip = tuple(parts), seal, span, skip
        self._damage = Damage(skip)
        self.columns = self._all_columns()
        self._first, self._stop = span.bounds(self._count)
        self._in_rows = self._stop is not None
        sizes = [part.size for part in self._parts]
        self.size = None if None in sizes else sum(size or 0 for size in sizes)
        if self._stop is not None:
            self.size = max(self._stop - self._first, 0)

    @property
    def damaged(self) -> list[str]:
        """After reading: the first twenty lines that were skipped, each as ``file:line: what is wrong``."""
        return list(self._damage.first)

    @property
    def damaged_count(self) -> int:
        """After reading: how many lines were skipped."""
        return self._damage.count

    def batches(self, size: int = 1000) -> Iterator[Batch]:
        """All rows, at most ``size`` in a batch (fewer where rows are long or at the end of a slice).

        Raises:
            DataError: a damaged line, unless they are skipped; a slice without rows.
        """
        self._damage = damage = Damage(self._skip)
        given = 0
        for batch in _in_batches(self._cut(self._pieces(damage)), size):
            given += len(batch.rows)
            yield Batch(batch.rows, batch.first, given if self._in_rows else batch.done)
        if damage.count:
            lines = "1 damaged line was" if damage.count == 1 else f"{damage.count:,} damaged lines were"
            warn(f"{self.name}: {lines} skipped; the first: {damage.first[0]}", f"damaged {self.name}")
        if not given:
            raise DataError(f"{self.name}: the slice holds no rows", "some of its rows", "set split")

    def fingerprint(self) -> str:
        """A hash of the content and of everything that selects rows; computed anew each time (about 1 s for 1 GB)."""
        chosen = f"{self._seal()} {self._span.start} {self._span.stop} {self._skip}"
        return hashlib.blake2b(chosen.encode(), digest_size=16).hexdigest()

    def _all_columns(self) -> list[str]:
        """Every part is opened and its first rows are read."""
        found = [_columns_of(part, self._skip) for part in self._parts]
        columns = list(dict.fromkeys(name for names in found for name in names))
        for part, names in zip(self._parts, found, strict=True):
            absent = [name for name in columns if name not in names]
            if absent:
                have = "the column" if len(absent) == 1 else "the columns"
                notice(
                    f"{part.name}: {have} {', '.join(absent)} of the other files is not there; its cells are empty",
                    f"columns {self.name}",
                )
        return columns

    def _count(self) -> int:
        """All rows. Where no footer says it, this is a whole reading."""
        if all(part.count for part in self._parts):
            return sum(part.count() for part in self._parts if part.count)
        return sum(len(piece.rows) for piece in self._pieces(Damage(self._skip)))

    def _pieces(self, damage: Damage) -> Iterator[Piece]:
        """Pieces of all parts, columns filled up; ``done`` counts from the first part on."""
        before, names = 0, frozenset(self.columns)
        empty = dict.fromkeys(self.columns)
        for part in self._parts:
            for rows, done in part.read(damage):
                yield Piece([row if row.keys() >= names else {**empty, **row} for row in rows], before + done)
            before += part.size or 0

    def _cut(self, pieces: Iterator[Piece]) -> Iterator[Batch]:
        """The rows of the slice, with their numbers."""
        at = 0
        with contextlib.closing(pieces):  # type: ignore[type-var]
            for rows, done in pieces:
                first, last = max(self._first - at, 0), None if self._stop is None else max(self._stop - at, 0)
                yield Batch(rows[first:last] if first or last is not None else rows, at + first + 1, done)
                at += len(rows)
                if self._stop is not None and at >= self._stop:
                    return


def _columns_of(part: Part, skip: bool) -> list[str]:
    damage = Damage(skip)
    pieces = part.read(damage)
    with contextlib.closing(pieces):  # type: ignore[type-var]
        for piece in pieces:
            if piece.rows:
                return list(dict.fromkeys(name for row in piece.rows[:PIECE_ROWS] for name in row))
    if damage.count:
        raise DataError(f"{part.name}: all of its {damage.count:,} lines are damaged: {damage.first[0]}")
    raise DataError(f"{part.name}: it holds no rows", "at least one row")


def _in_batches(batches: Iterator[Batch], size: int) -> Iterator[Batch]:
    """Join and cut to ``size`` rows. What is held is given on when much has been read for few rows."""
    held: list[Row] = []
    first, given, done = 0, 0, 0
    for batch in batches:
        if not held:
            first = batch.first
        held += batch.rows
        done = batch.done
        full = len(held) // size * size
        for start in range(0, full, size):
            yield Batch(held[start : start + size], first + start, done)
        if full:
            held, first, given = held[full:], first + full, done
        if held and done - given >= BATCH_BYTES:
            yield Batch(held, first, done)
            held, given = [], done
    if held:
        yield Batch(held, first, done)


def open_rows(
    path: str | Path,
    *,
    name: str | None = None,
    split: str = "train",
    file_type: str | None = None,
    revision: str | None = None,
    data_files: str | Sequence[str] | None = None,
    damaged: Literal["error", "skip"] = "error",
    streaming: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
    sample_by: str | None = None,
) -> RowStream:
    """Open one source.

    Args:
        path: a file (also compressed), a folder, a glob, a hub name, or a format (``json``, ``csv``, ...) together with
            ``data_files``.
        name: the sheet of a workbook; the hub data set's configuration.
        split: which rows; ``train[:5000]`` and ``train[10%:20%]`` work for local files too.
        file_type: the format where the suffix does not say it.
        revision: commit, tag or branch on the hub.
        data_files: files or globs inside of the folder or hub data set.
        damaged: what a damaged line is: an ``error``, or ``skip`` it, count it and say so.
        streaming: do not fetch a hub data set to the disk; local files are never read whole.
        encoding: of text files; None: found (UTF-8 and byte order marks for sure, others by a guess that is said).
        delimiter: of CSV and TSV; None: found.
        sample_by: what a row of plain text is: ``line`` (None), ``paragraph`` or ``document``.

    Raises:
        DataError: a missing, empty or damaged file (with its line where known), an unknown format or split.
        MissingDependency: a format that needs a package that is not installed.
    """
    chosen = [data_files] if isinstance(data_files, str) else list(data_files or [])
    here = Path(os.path.expanduser(str(path)))
    if here.is_dir() and any((here / mark).exists() for mark in SAVED):
        return _saved(here, split)
    files = find_files(str(path), split, chosen, file_type)
    if files is None:
        return _from_hub(str(path), name, split, revision, chosen, streaming)
    span = parse_split(split)[1]
    parts = [
        part
        for file in files
        for part in file_parts(
            file, file_type=file_type, sheet=name, encoding=encoding, delimiter=delimiter, sample_by=sample_by
        )
    ]
    options = f"{file_type} {name} {encoding} {delimiter}" + (f" {sample_by}" if sample_by else "")
    return RowStream(str(path), parts, lambda: _hash_of(files, options), span=span, skip=damaged == "skip")


def rows_of(rows: datasets.Dataset | datasets.IterableDataset | Sequence[Row]) -> RowStream:
    """A stream of rows that are in memory, or of a data set of the ``datasets`` library.

    Raises:
        DataError: there are none.
    """
    if isinstance(rows, datasets.Dataset | datasets.IterableDataset):
        part = hub.dataset_part(rows, "the data set")
    else:
        part = Part("the rows", len(rows), lambda damage: _listed(rows), lambda: len(rows))
    return RowStream(part.name, [part], lambda: _hash_of_rows(part))


def _listed(rows: Sequence[Row]) -> Iterator[Piece]:
    for start in range(0, len(rows), PIECE_ROWS):
        found = list(rows[start : start + PIECE_ROWS])
        yield Piece(found, start + len(found))


def _saved(folder: Path, split: str) -> RowStream:
    """A folder that ``save_to_disk`` wrote."""
    base, span = parse_split(split)
    rows = datasets.load_from_disk(str(folder))
    if isinstance(rows, datasets.DatasetDict):
        if base not in rows:
            raise DataError(f'{folder}: no split "{base}"', f"one of {', '.join(rows)}", "set split")
        rows = rows[base]
    files = [Path(file["filename"]) for file in rows.cache_files]
    parts = [hub.dataset_part(rows, str(folder))]
    return RowStream(str(folder), parts, lambda: _hash_of(files, str(rows._fingerprint)), span=span)


def _from_hub(
    path: str, name: str | None, split: str, revision: str | None, files: list[str], streaming: bool
) -> RowStream:
    base, span = parse_split(split) if streaming else (split, WHOLE)  # the library cuts only what it fetches whole
    rows = hub.load(path, name=name, split=base, revision=revision, files=files, streaming=streaming)
    asked = f"{name} {split} {files}"
    return RowStream(
        path, [hub.dataset_part(rows, path)], lambda: f"{hub.dataset_seal(rows, path, revision)} {asked}", span=span
    )


def _hash_of(files: Sequence[Path], options: str) -> str:
    """Of the files in order, their format and content; not of their names: a moved file is the same data."""
    whole = hashlib.blake2b(options.encode(), digest_size=16)
    for file in files:
        with reading(str(file)), file.open("rb") as opened:
            whole.update(format_suffix(file.name).encode())
            whole.update(hashlib.file_digest(opened, "blake2b").digest())
    return whole.hexdigest()


def _hash_of_rows(part: Part) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for piece in part.read(Damage()):
        whole.update(json.dumps(piece.rows, default=repr).encode())
    return whole.hexdigest()
