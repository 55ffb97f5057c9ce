"""The counts of one side (training or validation) while its rows go past: numbers and hashes, no texts."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Mapping

import numpy as np

from whet.data.audit_report import Classes, Lengths, Side
from whet.data.packing import pack
from whet.data.record_parts import Parts
from whet.data.row_check import ALIKE, EMPTY_ANSWER, LITERAL, UNFINISHED, SeenRow

LONGEST_CLASS = 60  # characters of an answer that may name a class
MOST_CLASSES = 50
ROWS_PER_CLASS = 3  # at least, on average
BINS = 16  # of the histogram, about; fewer for few rows
TAIL = 0.995  # share of rows before the histogram's open end


class Tally:
    """Counts of rows; ``side`` makes the figures."""

    def __init__(self) -> None:
        self.rows = self.kept = 0
        self._sizes, self._lengths = array("i"), array("i")
        self._row_hashes, self._prompt_hashes, self._answer_hashes = array("Q"), array("Q"), array("Q")
        self._tokens = self._trained = self._longer = self._truncated = 0
        self._seen_tokens = 0.0
        self._reasons: Counter[str] = Counter()
        self._remarks: Counter[str] = Counter()
        self._answers: Counter[str] | None = Counter()

    @property
    def row_hashes(self) -> np.ndarray:
        """uint64 for each row: of its tokens."""
        return np.frombuffer(self._row_hashes, dtype=np.uint64)

    @property
    def prompt_hashes(self) -> np.ndarray:
        """uint64 for each row: of its prompt; 0 for rows without one."""
        return np.frombuffer(self._prompt_hashes, dtype=np.uint64)

    def add(self, row: SeenRow, parts: Parts, weight: float) -> None:
        """Count one row; ``weight``: how often it is seen in an epoch."""
        self.rows += 1
        self._lengths.append(row.length)
        self._row_hashes.append(row.digest)
        self._prompt_hashes.append(_hash(parts.prompt))
        self._answer_hashes.append(_hash(parts.answers[-1]) if parts.answers else 0)
        self._longer += row.longer
        self._remarks.update(row.remarks)
        self._note_answer(parts)
        if row.reason:
            self._reasons[row.reason] += 1
            return
        self._truncated += row.longer
        self.kept += 1
        self._sizes.extend(row.sizes)
        self._tokens += sum(row.sizes)
        self._trained += row.trained
        self._seen_tokens += weight * sum(row.sizes)

    def _note_answer(self, parts: Parts) -> None:
        """Count short answers, until there are too many different ones to be classes."""
        if self._answers is None:
            return
        if len(parts.label) > LONGEST_CLASS or (not parts.label and "".join(parts.answers).strip()):
            self._answers = None
        elif parts.label:
            self._answers[parts.label] += 1
            if len(self._answers) > MOST_CLASSES:
                self._answers = None

    def side(self, bin_tokens: int | None, dropped: Mapping[str, int], damaged: int) -> Side:
        """The figures.

        Args:
            bin_tokens: tokens of a packed row; None where rows are not packed.
            dropped: rows that reading left out, by reason.
            damaged: lines that could not be read.
        """
        packed = self._packed_rows(bin_tokens) if bin_tokens else None
        return Side(
            rows=self.rows,
            kept=self.kept,
            tokens=self._tokens,
            trained_tokens=self._trained,
            lengths=lengths_of(np.frombuffer(self._lengths, dtype=np.int32)),
            longer=self._longer,
            truncated=self._truncated,
            dropped=dict(Counter(dropped) + self._reasons),
            damaged=damaged,
            duplicates=self.rows - len(np.unique(self.row_hashes)),
            conflicting=self._conflicting(),
            empty_answers=self._remarks[EMPTY_ANSWER],
            unfinished=self._remarks[UNFINISHED],
            literal=self._remarks[LITERAL],
            alike=self._remarks[ALIKE],
            classes=self._classes(),
            multiplier=self._seen_tokens / self._tokens if self._tokens else 1.0,
            packed_rows=packed,
            fill=self._tokens / (packed * bin_tokens) if packed and bin_tokens else None,
        )

    def _packed_rows(self, bin_tokens: int) -> int:
        return len(pack(np.frombuffer(self._sizes, dtype=np.int32), bin_tokens))

    def _conflicting(self) -> int:
        """Rows whose prompt another, earlier row has with another answer."""
        prompts = self.prompt_hashes
        pairs = np.stack([prompts, np.frombuffer(self._answer_hashes, dtype=np.uint64)], axis=1)
        different = np.unique(pairs[prompts != 0], axis=0)
        return len(different) - len(np.unique(different[:, 0]))

    def _classes(self) -> Classes | None:
        found = self._answers
        if not found or len(found) * ROWS_PER_CLASS > sum(found.values()):
            return None
        return Classes(dict(found.most_common()))


def lengths_of(lengths: np.ndarray) -> Lengths:
    """Quantiles and a histogram with round borders; the few longest rows share one bin with an open end."""
    if not len(lengths):
        return Lengths({}, (), (), False)
    quantiles = np.quantile(lengths, [0, 0.05, 0.5, 0.95, 1], method="inverted_cdf").astype(int).tolist()
    low, high, longest = int(lengths.min()), int(np.quantile(lengths, TAIL, method="inverted_cdf")), int(lengths.max())
    if longest <= 2 * high:
        high = longest
    step = _round_step((high - low + 1) / min(BINS, 2 + math.isqrt(len(lengths))))
    first = low // step
    edges = [step * i for i in range(first, high // step + 2)]
    counts, _ = np.histogram(np.minimum(lengths, edges[-1] - 1), bins=edges)
    named = dict(zip(("min", "5%", "median", "95%", "max"), quantiles, strict=True))
    return Lengths(named, tuple(edges), tuple(counts.tolist()), longest >= edges[-1])


def _round_step(width: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is at least ``width``."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if size * factor >= width:
                return size * factor
        size *= 10


def _hash(text: str) -> int:
    """64 bits of a text without case and white space at its ends; 0 for an empty one."""
    even = " ".join(text.split())
    if not even:
        return 0
    return int.from_bytes(hashlib.blake2b(even.encode("utf-8", "replace"), digest_size=8).digest(), "little") | 1
