"""Encoded rows in memory, and the batches made of them.

The rows lie in flat arrays (8 bytes a token), so a hundred thousand rows cost no Python objects and a data set can be
handed to worker processes cheaply. Nothing here is random: the trainer shuffles the items by its seed.

No batch has an attention mask. Packed documents are told apart by position ids that restart at 0; together with an
all-ones mask (or a cache) a transformers model would ignore that, and documents would see each other. Padding is at
the right, where causal attention never looks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from whet.data.packing import pack
from whet.errors import DataError
from whet.text.encode import IGNORE, Encoded

Excess = Literal["drop", "truncate", "error"]
Item = dict[str, torch.Tensor]

TOO_LONG = "longer than sequence_len"
NOTHING_TRAINED = "nothing to train on"
CUT_BEFORE_ANSWER = "nothing to train on within sequence_len"


@dataclass(frozen=True)
class Stats:
    """What became of the rows. ``dropped`` counts rows by reason; ``longest_row`` is in tokens, before any cut."""

    rows: int
    tokens: int
    trained_tokens: int
    longest_row: int
    truncated: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """Rows in flat arrays: row i is ``ids[offsets[i]:offsets[i + 1]]``, the same for ``labels``."""

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    stats: Stats

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64."""
        return np.diff(self.offsets)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels of one row, int32 views."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.ids[part], self.labels[part]


def prepare(encoded: Iterable[Encoded], sequence_len: int, excess: Excess = "drop") -> Prepared:
    """Collect encoded rows; long rows are dropped, cut at the end, or an error; rows with nothing trained are dropped.

    Raises:
        DataError: a row too long with ``excess="error"``, no rows, or none left.
    """
    if excess not in ("drop", "truncate", "error"):
        raise DataError(f"excess_length_strategy: {excess!r}", 'one of "drop", "truncate", "error"')
    rows = _Rows(sequence_len, excess)
    for row in encoded:
        rows.add(row)
    return rows.finish()


class _Rows:
    """The rows so far, with the counts of what was left out."""

    def __init__(self, sequence_len: int, excess: Excess) -> None:
        self.sequence_len, self.excess = sequence_len, excess
        self.ids, self.labels, self.offsets = array("i"), array("i"), array("q", [0])
        self.seen = self.longest = self.truncated = self.trained = 0
        self.dropped: dict[str, int] = {}

    def add(self, row: Encoded) -> None:
        ids, labels, size = row.ids, row.labels, len(row.ids)
        self.seen += 1
        self.longest = max(self.longest, size)
        trained = _count_trained(labels)
        if not trained:
            return self._drop(NOTHING_TRAINED)
        if size > self.sequence_len:
            if self.excess == "error":
                self._refuse(size)
            if self.excess == "drop":
                return self._drop(TOO_LONG)
            ids, labels = ids[: self.sequence_len], labels[: self.sequence_len]
            trained = _count_trained(labels)
            if not trained:
                return self._drop(CUT_BEFORE_ANSWER)
            self.truncated += 1
        self.trained += trained
        self.ids.extend(ids)
        self.labels.extend(labels)
        self.offsets.append(len(self.ids))
        return None

    def finish(self) -> Prepared:
        if self.seen == 0:
            raise DataError("the data set has no rows")
        if len(self.offsets) == 1:
            reasons = "; ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise DataError(
                f"none of the {self.seen} rows can be trained on: {reasons}",
                fix=f"raise sequence_len above {self.longest}, or look at the rows"
                if TOO_LONG in self.dropped or CUT_BEFORE_ANSWER in self.dropped
                else "check that the rows have answers and that the answers are what is trained",
            )
        stats = Stats(
            len(self.offsets) - 1, len(self.ids), self.trained, self.longest, self.truncated, dict(self.dropped)
        )
        ids, labels = (np.frombuffer(flat, dtype=np.int32) for flat in (self.ids, self.labels))
        return Prepared(ids, labels, np.frombuffer(self.offsets, dtype=np.int64), stats)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _refuse(self, size: int) -> None:
        raise DataError(
            f"row {self.seen} has {size} tokens",
            f"at most {self.sequence_len} (sequence_len)",
            'raise sequence_len, or set excess_length_strategy to "drop" or "truncate"',
        )


def _count_trained(labels: list[int]) -> int:
    """Labels that some position predicts: the first one is not."""
    return len(labels) - labels.count(IGNORE) - (bool(labels) and labels[0] != IGNORE)


class PackedDataset(Dataset[Item]):
    """Bins of whole rows, up to ``sequence_len`` tokens each.

    Item: ``input_ids`` T, ``labels`` T, ``position_ids`` T (int64), where positions restart at 0 with each document.

    Attributes:
        bins: row numbers of each item.
        documents_per_bin: int64 array.
        fill_ratio: tokens / (bins x sequence_len).
    """

    def __init__(self, prepared: Prepared, sequence_len: int) -> None:
        self.prepared = prepared
        self.bins = pack(prepared.lengths, sequence_len)
        self.documents_per_bin = np.array([len(rows) for rows in self.bins], dtype=np.int64)
        self.fill_ratio = prepared.stats.tokens / (len(self.bins) * sequence_len)

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> Item:
        return _item([self.prepared.row(row) for row in self.bins[index]])


class PaddedDataset(Dataset[Item]):
    """One row an item, for training without packing. Same keys as ``PackedDataset``."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, index: int) -> Item:
        return _item([self.prepared.row(index)])


def _item(documents: Sequence[tuple[np.ndarray, np.ndarray]]) -> Item:
    ids_T = np.concatenate([ids for ids, _ in documents]).astype(np.int64)
    labels_T = np.concatenate([labels for _, labels in documents]).astype(np.int64)
    firsts = np.cumsum([0, *(len(ids) for ids, _ in documents[:-1])])
    labels_T[firsts] = IGNORE  # nothing of the document before may predict the next one's first token
    positions_T = np.concatenate([np.arange(len(ids), dtype=np.int64) for ids, _ in documents])
    return {
        "input_ids": torch.from_numpy(ids_T),
        "labels": torch.from_numpy(labels_T),
        "position_ids": torch.from_numpy(positions_T),
    }


def collate(items: Sequence[Item], pad_id: int = 0) -> Item:
    """A batch of packed items: ``input_ids``, ``labels``, ``position_ids``, each B x T (T = the longest item).

    Padding is at the right and a document of its own: its positions restart at 0, its labels are ``IGNORE``.
    """
    return _stack(items, pad_id, restart_positions=True)


def collate_padded(items: Sequence[Item], pad_id: int = 0) -> Item:
    """A batch of single rows: as ``collate``, but positions run on through the padding (plain 0..T-1).

    Causal attention keeps the padding out of every real token, and a model's fast causal path stays usable.
    """
    return _stack(items, pad_id, restart_positions=False)


def _stack(items: Sequence[Item], pad_id: int, restart_positions: bool) -> Item:
    width = max(len(item["input_ids"]) for item in items)
    shape = (len(items), width)
    ids_BT, labels_BT = torch.full(shape, pad_id), torch.full(shape, IGNORE)
    positions_BT = torch.arange(width).repeat(len(items), 1)
    for b, item in enumerate(items):
        size = len(item["input_ids"])
        ids_BT[b, :size], labels_BT[b, :size] = item["input_ids"], item["labels"]
        positions_BT[b, :size] = item["position_ids"]
        if restart_positions:
            positions_BT[b, size:] = torch.arange(width - size)
    return {"input_ids": ids_BT, "labels": labels_BT, "position_ids": positions_BT}
