"""Batches of prepared rows.

Nothing here is random: the trainer shuffles the items by its seed (``sampler.py``).

No batch has an attention mask. Packed documents are told apart by position ids that restart at 0; together with an
all-ones mask (or a cache) a transformers model would ignore that, and documents would see each other. Padding is at
the right, where causal attention never looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from whet.data.packing import pack
from whet.data.prepare import Excess, prepare
from whet.data.prepared import Prepared, Stats
from whet.text.encode import IGNORE

__all__ = ["Excess", "PackedDataset", "PaddedDataset", "Prepared", "Stats", "collate", "collate_padded", "prepare"]

Item = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """What the host knows of a batch, so that nothing has to be read back from the device.

    Attributes:
        lengths: tokens of the documents, row after row, padding included.
        real: tokens that are no padding. labelled: positions that predict a label.
        shared: for each document how many of its first tokens are those of the document before it, and are not there a
            second time; empty where documents share none.
    """

    lengths: tuple[int, ...]
    real: int
    labelled: int
    shared: tuple[int, ...] = ()


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
        return item_of([self.prepared.row(row) for row in self.bins[index]])


class PaddedDataset(Dataset[Item]):
    """One row an item, for training without packing. Same keys as ``PackedDataset``."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, index: int) -> Item:
        return item_of([self.prepared.row(index)])


def item_of(documents: Sequence[tuple[np.ndarray, np.ndarray]], shared: int = 0) -> Item:
    """Documents one after the other as one item; the first token of each is never a label.

    Args:
        shared: first tokens that all of them have in common, stored with the first document only.
    """
    starts = [shared * (number > 0) for number in range(len(documents))]
    parts = [(ids[start:], labels[start:]) for (ids, labels), start in zip(documents, starts, strict=True)]
    ids_T = np.concatenate([ids for ids, _ in parts]).astype(np.int64)
    labels_T = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    firsts = np.cumsum([0, *(len(ids) for ids, _ in parts[:-1])])
    labels_T[firsts] = IGNORE  # nothing of the document before may predict the next one's first token
    counted = [np.arange(start, start + len(ids)) for (ids, _), start in zip(parts, starts, strict=True)]
    positions_T = np.concatenate(counted).astype(np.int64)
    return {
        "input_ids": torch.from_numpy(ids_T),
        "labels": torch.from_numpy(labels_T),
        "position_ids": torch.from_numpy(positions_T),
    }


def collate(items: Sequence[Item], pad_id: int = 0) -> dict[str, Any]:
    """A batch of packed items: ``input_ids``, ``labels``, ``position_ids``, each B x T (T = the longest item).

    Beside them ``rows``, the N of the B * T positions that predict a label, and ``layout``, a ``Layout``.

    Padding is at the right and a document of its own: its positions restart at 0, its labels are ``IGNORE``.
    """
    return _stack(items, pad_id, restart_positions=True)


def collate_padded(items: Sequence[Item], pad_id: int = 0) -> dict[str, Any]:
    """A batch of single rows: as ``collate``, but positions run on through the padding (plain 0..T-1).

    Causal attention keeps the padding out of every real token, and a model's fast causal path stays usable.
    """
    return _stack(items, pad_id, restart_positions=False)


def _stack(items: Sequence[Item], pad_id: int, restart_positions: bool) -> dict[str, Any]:
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
    rows_N = label_rows(labels_BT)
    lengths, shared = _spans(positions_BT)
    layout = Layout(lengths, sum(len(item["input_ids"]) for item in items), len(rows_N), shared)
    return {
        "input_ids": ids_BT,
        "labels": labels_BT,
        "position_ids": positions_BT,
        "rows": rows_N,
        "layout": layout,
    }


def label_rows(labels_BT: torch.Tensor) -> torch.Tensor:
    """Which of the B * T positions predict a label: those before it in their row."""
    targets_BT = torch.nn.functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORE)
    return (targets_BT.flatten() != IGNORE).nonzero().squeeze(1)


def _spans(positions_BT: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``lengths`` and ``shared`` of ``Layout``: positions restart with a document, at the number of shared tokens."""
    starts_BT = torch.ones_like(positions_BT, dtype=torch.bool)
    starts_BT[:, 1:] = positions_BT[:, 1:] != positions_BT[:, :-1] + 1
    starts = starts_BT.flatten().nonzero().squeeze(1)
    shared = tuple(positions_BT.flatten()[starts].tolist())
    ends = [*starts.tolist(), positions_BT.numel()]
    lengths = tuple(end - start + more for (start, end), more in zip(pairwise(ends), shared, strict=True))
    return lengths, shared if any(shared) else ()
