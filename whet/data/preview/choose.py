"""Which rows are shown: the first, the longest, the shortest, then one for each kind of remark, then random ones.

The rows go past once, in any number; only those that may be shown are kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

from whet.data.audit_report import ShownPart, ShownRow
from whet.data.preview.pieces import pieces_of
from whet.data.records import LabelRecord, PreferenceRecord, Record
from whet.text.encode import IGNORE, Encoded

MOST_TOKENS = 20_000  # of one text that is shown; what is left out is counted


class _Row(NamedTuple):
    number: int
    record: Record
    encoded: tuple[Encoded, ...]
    remarks: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.encoded)


class Chooser:
    """Keeps at most ``count`` rows and the candidates for them; ``rows`` turns them into pieces of text."""

    def __init__(self, tokenizer: Any, count: int, seed: int) -> None:
        self._tokenizer, self._count = tokenizer, count
        self._random = random.Random(seed)
        self._first: _Row | None = None
        self._longest: _Row | None = None
        self._shortest: _Row | None = None
        self._remarked: dict[str, _Row] = {}
        self._reservoir: list[_Row] = []
        self._seen = 0

    def offer(self, number: int, record: Record, encoded: Sequence[Encoded], remarks: tuple[str, ...]) -> None:
        """Let one row go past."""
        row = _Row(number, record, tuple(encoded), remarks)
        self._seen += 1
        self._first = self._first or row
        if self._longest is None or row.tokens > self._longest.tokens:
            self._longest = row
        if self._shortest is None or row.tokens < self._shortest.tokens:
            self._shortest = row
        for remark in remarks:
            self._remarked.setdefault(remark, row)
        self._sample(row)

    def _sample(self, row: _Row) -> None:
        """A uniform sample of all rows (Vitter 1985, algorithm R)."""
        if len(self._reservoir) < self._count:
            self._reservoir.append(row)
        elif (place := self._random.randrange(self._seen)) < self._count:
            self._reservoir[place] = row

    def rows(self) -> list[ShownRow]:
        """The rows to show, each once, in the order of the reasons."""
        chosen: dict[int, tuple[_Row, str]] = {}
        said: set[str] = set()
        for row, why in self._candidates():
            known = why == "remark" and said.issuperset(row.remarks)
            if len(chosen) < self._count and not known:
                chosen.setdefault(row.number, (row, why))
                said.update(row.remarks)
        return [self._shown(row, why) for row, why in chosen.values()]

    def _candidates(self) -> Iterator[tuple[_Row, str]]:
        for row, why in ((self._first, "first"), (self._longest, "longest"), (self._shortest, "shortest")):
            if row is not None:
                yield row, why
        for row in self._remarked.values():
            yield row, "remark"
        for row in sorted(self._reservoir):
            yield row, "random"

    def _shown(self, row: _Row, why: str) -> ShownRow:
        parts = [self._part(text) for text in row.encoded]
        if isinstance(row.record, PreferenceRecord):
            parts = _prompt_once(*parts)
        elif isinstance(row.record, LabelRecord):
            parts = [replace(part, title="good" if row.record.label else "bad") for part in parts]
        trained = sum(len(text.labels) - text.labels.count(IGNORE) for text in row.encoded)
        return ShownRow(row.number, why, tuple(parts), row.tokens, trained, row.remarks)

    def _part(self, text: Encoded) -> ShownPart:
        ids, labels = text.ids[:MOST_TOKENS], text.labels[:MOST_TOKENS]
        return ShownPart("", tuple(pieces_of(self._tokenizer, ids, labels)), hidden=len(text.ids) - len(ids))


def _prompt_once(chosen: ShownPart, rejected: ShownPart) -> list[ShownPart]:
    """A preference as three parts: what both texts begin with, and how each goes on."""
    pairs = zip(chosen.pieces, rejected.pieces, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1] and not pair[0].trained, pairs))
    return [
        ShownPart("prompt", chosen.pieces[:shared]),
        ShownPart("chosen", chosen.pieces[shared:], chosen.hidden),
        ShownPart("rejected", rejected.pieces[shared:], rejected.hidden),
    ]
