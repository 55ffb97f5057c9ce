"""Encoded rows collected for training: long rows are dealt with, everything left out is counted.

A row that is too long is dropped, cut, or an error. A cut never goes through an answer: it stands after the last answer
whose terminator still fits, so no model learns answers without an end; where not even the first answer fits, the row is
dropped. Only a text that is trained as a whole may be cut anywhere; ``split`` makes it into several rows instead.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np

from whet.console import output_errors
from whet.data.prepared import Prepared, Stats
from whet.errors import DataError
from whet.text.encode import ROWS_AT_ONCE, Encoded, EncodedRows
from whet.text.literal import Span

Excess = Literal["drop", "truncate", "split", "error"]

TOO_LONG = "longer than sequence_len"
NOTHING_TRAINED = "nothing to train on"
CUT_BEFORE_ANSWER = "no whole answer within sequence_len"

FILES = {"ids": np.int32, "mask": np.bool_, "offsets": np.int64, "trained": np.int64}


def prepare(encoded: Iterable[Encoded], sequence_len: int, excess: Excess = "drop") -> Prepared:
    """Collect encoded rows in memory.

    Args:
        sequence_len: tokens of the longest row that is kept as it is.
        excess: what happens to longer rows.

    Raises:
        DataError: a row too long with ``excess="error"``, no rows, or none left.
    """
    writer, iterator = PreparedWriter(sequence_len, excess), iter(encoded)
    while chunk := list(islice(iterator, ROWS_AT_ONCE)):
        writer.add(gather(chunk))
    return writer.finish()


def gather(rows: Sequence[Encoded]) -> EncodedRows:
    """Single rows in flat arrays."""
    offsets = np.cumsum([0, *(len(row.ids) for row in rows)])
    ids = np.fromiter((token for row in rows for token in row.ids), np.int32, int(offsets[-1]))
    spans = [tuple((max(a, 1), b) for a, b in row.trained if b > max(a, 1)) for row in rows]  # never a first token
    return EncodedRows(ids, offsets, spans, [row.literal for row in rows])


class PreparedWriter:
    """Takes encoded rows in any number and makes them a ``Prepared``.

    Args:
        folder: where the tokens are written as they come; None keeps them in memory.
    """

    def __init__(self, sequence_len: int, excess: Excess = "drop", folder: Path | None = None) -> None:
        if excess not in get_args(Excess):
            raise DataError(
                f"excess_length_strategy: {excess!r}", "one of " + ", ".join(f'"{name}"' for name in get_args(Excess))
            )
        self.sequence_len, self.excess, self.folder = sequence_len, excess, folder
        self.kept: dict[str, list[np.ndarray]] = {name: [] for name in ("ids", "mask", "sizes", "trained")}
        self.seen = self.rows = self.longest = self.truncated = self.quoted = 0
        self.dropped: Counter[str] = Counter()
        self._files: dict[str, BinaryIO] = {}
        if folder is not None:
            with output_errors(folder):
                self._files = {name: (folder / f"{name}.bin").open("wb") for name in ("ids", "mask")}

    def add(self, rows: EncodedRows) -> None:
        """Take rows in; what is left out is counted.

        Raises:
            DataError: a row too long with ``excess="error"``.
            OutputError: the disk is full or not writable.
        """
        sizes = np.diff(rows.offsets)
        self.longest = max(self.longest, int(sizes.max(initial=0)))
        self.quoted += sum(count > 0 for count in rows.literal)
        if len(rows) and sizes.max() <= self.sequence_len and all(rows.spans):
            self._keep(rows.ids, rows.spans, rows.offsets)
            self.seen += len(rows)
            return
        pieces = [piece for i in range(len(rows)) for piece in self._fitted(rows, i)]
        if pieces:
            offsets = np.cumsum([0, *(len(ids) for ids, _ in pieces)])
            self._keep(np.concatenate([ids for ids, _ in pieces]), [spans for _, spans in pieces], offsets)

    def finish(self) -> Prepared:
        """All rows together.

        Raises:
            DataError: there were none, or none is left.
        """
        for file in self._files.values():
            file.close()
        if self.seen == 0:
            raise DataError("the data set has no rows")
        if not self.rows:
            self._refuse_nothing()
        sizes, trained = (np.concatenate(self.kept[name]) for name in ("sizes", "trained"))
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        stats = Stats(
            len(sizes),
            int(offsets[-1]),
            int(trained.sum()),
            self.longest,
            self.truncated,
            dict(self.dropped),
            self.quoted,
        )
        if self.folder is not None:
            with output_errors(self.folder):
                _write_rest(self.folder, offsets, trained, stats)
            return load_prepared(self.folder)
        ids, mask = (np.concatenate(self.kept[name]) for name in ("ids", "mask"))
        return Prepared(ids, mask, offsets, trained, np.arange(len(sizes)), stats)

    def _keep(self, ids: np.ndarray, spans: Sequence[tuple[Span, ...]], offsets: np.ndarray) -> None:
        mask, trained = _mask(ids, spans, offsets)
        if self._files:
            with output_errors(self.folder or Path()):
                self._files["ids"].write(ids.astype(np.int32).tobytes())
                self._files["mask"].write(mask.tobytes())
        else:
            self.kept["ids"].append(ids)
            self.kept["mask"].append(mask)
        self.kept["sizes"].append(np.diff(offsets))
        self.kept["trained"].append(trained)
        self.rows += len(spans)

    def _fitted(self, rows: EncodedRows, index: int) -> Iterator[tuple[np.ndarray, tuple[Span, ...]]]:
        """One row as it is, cut, in pieces, or not at all."""
        self.seen += 1
        ids, spans = rows.ids[rows.offsets[index] : rows.offsets[index + 1]], rows.spans[index]
        if not spans:
            self.dropped[NOTHING_TRAINED] += 1
        elif len(ids) <= self.sequence_len:
            yield ids, spans
        elif self.excess == "error":
            self._refuse_long(len(ids))
        elif self.excess == "drop" or (self.excess == "split" and not _is_text(ids, spans)):
            self.dropped[TOO_LONG] += 1
        else:
            yield from self._cut(ids, spans)

    def _cut(self, ids: np.ndarray, spans: tuple[Span, ...]) -> Iterator[tuple[np.ndarray, tuple[Span, ...]]]:
        limit = self.sequence_len
        if _is_text(ids, spans):
            self.truncated += 1
            for start in starts_of_pieces(len(ids), limit)[: None if self.excess == "split" else 1]:
                piece = ids[start : start + limit]
                yield piece, ((1, len(piece)),)
            return
        whole = tuple(span for span in spans if span[1] <= limit)
        if whole:
            self.truncated += 1
            yield ids[: whole[-1][1]], whole
        else:
            self.dropped[CUT_BEFORE_ANSWER] += 1

    def _refuse_long(self, size: int) -> None:
        raise DataError(
            f"row {self.seen} has {size} tokens",
            f"at most {self.sequence_len} (sequence_len)",
            'raise sequence_len, or set excess_length_strategy to "drop", "truncate" or "split"',
        )

    def _refuse_nothing(self) -> None:
        reasons = "; ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        short = TOO_LONG in self.dropped or CUT_BEFORE_ANSWER in self.dropped
        raise DataError(
            f"none of the {self.seen} rows can be trained on: {reasons}",
            fix=f"raise sequence_len above {self.longest}, or look at the rows"
            if short
            else "check that the rows have answers and that the answers are what is trained",
        )


def starts_of_pieces(size: int, limit: int) -> range:
    """Where the pieces of a long text begin. Each repeats the last token of the one before, which then predicts its
    first new one: every token but the text's first is trained, once."""
    return range(0, size - 1, limit - 1)


def _is_text(ids: np.ndarray, spans: tuple[Span, ...]) -> bool:
    """Whether the whole row is trained (its first token never is, and a bos token may stand before that)."""
    return len(spans) == 1 and spans[0][0] <= 2 and spans[0][1] == len(ids)


def _mask(ids: np.ndarray, spans: Sequence[tuple[Span, ...]], offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are trained, and how many in each row."""
    places = offsets[:-1].tolist()
    flat = [(a + place, b + place) for place, row in zip(places, spans, strict=True) for a, b in row]
    edges = np.zeros(len(ids) + 1, dtype=np.int8)
    borders = np.asarray(flat, dtype=np.int64).reshape(-1, 2)
    np.add.at(edges, borders[:, 0], 1)
    np.add.at(edges, borders[:, 1], -1)
    mask = np.cumsum(edges[:-1], dtype=np.int8) > 0  # two ranges may share a token that lies across both
    return mask, np.add.reduceat(mask, offsets[:-1], dtype=np.int64)


def _write_rest(folder: Path, offsets: np.ndarray, trained: np.ndarray, stats: Stats) -> None:
    (folder / "offsets.bin").write_bytes(offsets.astype(np.int64).tobytes())
    (folder / "trained.bin").write_bytes(trained.astype(np.int64).tobytes())
    (folder / "stats.json").write_text(json.dumps(asdict(stats)), encoding="utf-8")


def load_prepared(folder: Path) -> Prepared:
    """Rows that were prepared into ``folder``, mapped from its files: they need no memory until they are read."""
    stats = Stats(**json.loads((folder / "stats.json").read_text(encoding="utf-8")))
    arrays: dict[str, Any] = {
        name: np.memmap(folder / f"{name}.bin", dtype=kind, mode="r") for name, kind in FILES.items()
    }
    return Prepared(**arrays, order=np.arange(stats.rows), stats=stats)
