"""What is wrong with one row? Its length, its mask, its answer's end."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from whet.data.prepare import CUT_BEFORE_ANSWER, NOTHING_TRAINED, TOO_LONG, starts_of_pieces
from whet.data.preview.pieces import decode, special_ids
from whet.data.record_parts import parts_of
from whet.data.records import PreferenceRecord, Record
from whet.text.encode import Encoded

Runs = tuple[tuple[int, int], ...]

STOP_TOKENS = 16  # tokens at the end of an answer in which a terminator of plain text is looked for

UNFINISHED = "an answer does not end in a terminator"
EMPTY_ANSWER = "an answer is empty"
LITERAL = "the text of a special token stands in its contents; it is encoded as plain text"
ALIKE = "the chosen and the rejected answer are the same"
CUT = "longer than sequence_len: it is cut"
REFUSED = "longer than sequence_len: an error"


@dataclass(frozen=True, slots=True)
class SeenRow:
    """What an audit keeps of a row for a moment.

    Args:
        length: tokens before any cut; of a preference those of the longer text.
        sizes: tokens of the rows that training makes of it: none, one, or several where long texts are split.
        trained: trained tokens in them.
        reason: why training leaves the row out; "" where it does not.
    """

    length: int
    sizes: tuple[int, ...]
    trained: int
    digest: int
    reason: str
    longer: bool
    remarks: tuple[str, ...]


class RowCheck:
    """Judge rows; call it with a record and its tokens."""

    def __init__(self, tokenizer: Any, sequence_len: int, excess: str, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._limit, self._excess = tokenizer, sequence_len, excess
        self._stops = tuple(stop.strip() for stop in stops if stop.strip())
        openers = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id} - {tokenizer.eos_token_id}
        self._ends = special_ids(tokenizer) - openers
        self._blank: dict[int, bool] = {}

    def __call__(self, record: Record, encoded: Sequence[Encoded]) -> SeenRow:
        lengths = [len(row.ids) for row in encoded]
        runs: list[Runs] = [row.trained for row in encoded]
        fits = [fit(n, spans, self._limit, self._excess) for n, spans in zip(lengths, runs, strict=True)]
        reason = next((found.reason for found in fits if found.reason), "")
        longer = max(lengths) > self._limit
        return SeenRow(
            max(lengths),
            () if reason else tuple(size for found in fits for size in found.sizes),
            0 if reason else sum(found.trained for found in fits),
            _digest(encoded),
            reason,
            longer,
            tuple(self._remarks(record, encoded, runs, reason, longer)),
        )

    def _remarks(
        self, record: Record, encoded: Sequence[Encoded], runs: Sequence[Runs], reason: str, longer: bool
    ) -> Iterator[str]:
        if reason:
            yield REFUSED if reason == TOO_LONG and self._excess == "error" else f"left out: {reason}"
        elif longer:
            yield CUT
        if any(not answer.strip() for answer in parts_of(record).answers):
            yield EMPTY_ANSWER
        if not all(self._finished(row.ids, spans) for row, spans in zip(encoded, runs, strict=True)):
            yield UNFINISHED
        if any(getattr(row, "literal", 0) for row in encoded):
            yield LITERAL
        if isinstance(record, PreferenceRecord) and record.chosen == record.rejected:
            yield ALIKE

    def _finished(self, ids: Sequence[int], runs: Runs) -> bool:
        """Does each run of trained tokens end in a terminator? White space after it is none of its business."""
        for start, stop in runs:
            last = stop - 1
            while last > start and self._is_blank(ids[last]):
                last -= 1
            if ids[last] not in self._ends and not self._ends_in_text(ids[: last + 1]):
                return False
        return True

    def _ends_in_text(self, ids: Sequence[int]) -> bool:
        return bool(self._stops) and decode(self._tokenizer, ids[-STOP_TOKENS:]).rstrip().endswith(self._stops)

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = token not in self._ends and not decode(self._tokenizer, [token]).strip()
        return self._blank[token]


class Fit(NamedTuple):
    """What becomes of one text: the rows made of it, or the reason why there are none."""

    reason: str
    sizes: tuple[int, ...] = ()
    trained: int = 0


def fit(length: int, runs: Runs, limit: int, excess: str) -> Fit:
    """What ``whet.data.prepare`` makes of a row; a test compares the two."""
    if not runs:
        return Fit(NOTHING_TRAINED)
    if length <= limit:
        return Fit("", (length,), _covered(runs))
    whole_text = len(runs) == 1 and runs[0][0] <= 2 and runs[0][1] == length
    if excess in ("drop", "error") or (excess == "split" and not whole_text):
        return Fit(TOO_LONG)
    if whole_text:
        starts = starts_of_pieces(length, limit)[: None if excess == "split" else 1]
        sizes = tuple(min(limit, length - start) for start in starts)
        return Fit("", sizes, sum(size - 1 for size in sizes))
    whole = tuple((start, stop) for start, stop in runs if stop <= limit)
    if not whole:
        return Fit(CUT_BEFORE_ANSWER)
    return Fit("", (whole[-1][1],), _covered(whole))


def _covered(runs: Runs) -> int:
    """Tokens in the ranges; two neighbours may share the token that lies across both."""
    ends = (0, *(stop for _, stop in runs))
    return sum(stop - max(start, before) for (start, stop), before in zip(runs, ends, strict=False))


def _digest(encoded: Sequence[Encoded]) -> int:
    """64 bits of a row's ids; never 0."""
    text = hashlib.blake2b(digest_size=8)
    for row in encoded:
        text.update(array("i", row.ids).tobytes() + b"|")
    return int.from_bytes(text.digest(), "little") | 1
