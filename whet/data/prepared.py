"""Encoded rows in flat arrays, in memory or on disk.

Five bytes a token: so a hundred thousand rows cost no Python objects, a data set larger than the memory is mapped from
its files, and either can be handed to worker processes cheaply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from whet.text.encode import IGNORE


@dataclass(frozen=True)
class Stats:
    """What became of the rows.

    Attributes:
        rows, tokens, trained_tokens: of the rows that are left.
        longest_row: in tokens, before any cut.
        truncated: rows that were cut to sequence_len; a row cut into several pieces counts once.
        quoted: rows with special-token text in their data, which is encoded as plain text.
        dropped: rows left out, by reason.
    """

    rows: int
    tokens: int
    trained_tokens: int
    longest_row: int
    truncated: int
    dropped: dict[str, int] = field(default_factory=dict)
    quoted: int = 0


@dataclass(frozen=True)
class Prepared:
    """Rows ready for training.

    Attributes:
        ids: tokens of all stored rows, int32.
        mask: which of them are trained, bool.
        offsets: stored row i is ``ids[offsets[i]:offsets[i + 1]]``, int64.
        trained: trained tokens of each stored row, int64.
        order: numbers of the stored rows that this set consists of; a row may be there more than once.
    """

    ids: np.ndarray
    mask: np.ndarray
    offsets: np.ndarray
    trained: np.ndarray
    order: np.ndarray
    stats: Stats

    def __len__(self) -> int:
        return len(self.order)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64."""
        return np.diff(self.offsets)[self.order]

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels of one row, int32; ``IGNORE`` where nothing is trained."""
        stored = self.order[index]
        part = slice(self.offsets[stored], self.offsets[stored + 1])
        ids = np.asarray(self.ids[part])
        return ids, np.where(self.mask[part], ids, np.int32(IGNORE))

    def take(self, rows: Sequence[int] | np.ndarray) -> Prepared:
        """The set of these rows, in this order; ``stats`` then speaks of them."""
        order = self.order[np.asarray(rows, dtype=np.int64)]
        stats = replace(
            self.stats,
            rows=len(order),
            tokens=int(np.diff(self.offsets)[order].sum()),
            trained_tokens=int(self.trained[order].sum()),
        )
        return replace(self, order=order, stats=stats)

    def split(self, size: float, seed: int) -> tuple[Prepared, Prepared]:
        """Hold out a share (below 1) or a number of rows, drawn by seed. Returns what is left, and what was held out.

        Raises:
            ValueError: nothing would be left.
        """
        total = len(self)
        count = max(1, round(size * total)) if size < 1 else int(size)
        if count >= total:
            raise ValueError(f"{count} rows held out of {total}")
        drawn = np.random.default_rng(seed).permutation(total)
        return self.take(np.sort(drawn[count:])), self.take(np.sort(drawn[:count]))


def weighted(rows: np.ndarray, weight: float, seed: int) -> np.ndarray:
    """``rows`` as often as ``weight`` says: 2.5 gives each row twice and a drawn half of them once more."""
    whole = int(weight)
    extra = round((weight - whole) * len(rows))
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:extra])
    return np.concatenate([np.tile(rows, whole), rows[drawn]])


def data_hash(prepared: Prepared) -> str:
    """SHA-256 of the tokens, of which are trained, and of the rows in order."""
    digest = hashlib.sha256()
    for part in (prepared.ids, prepared.mask, prepared.offsets, prepared.order):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
