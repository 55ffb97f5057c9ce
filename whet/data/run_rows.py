"""Training and validation rows of a run, as its config names, weights or splits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whet.config import DatasetConfig, RunConfig
from whet.console import notice
from whet.data.collect import Collected, Source, collect
from whet.data.formats import FormatSpec, open_records
from whet.data.prepared import Prepared, weighted
from whet.data.records import Record
from whet.data.stream import open_rows
from whet.errors import DataError


@dataclass(frozen=True)
class Rows:
    """The rows of a run.

    Attributes:
        train, valid: ready for training; ``valid`` is None without validation rows.
        sample: a few hundred of the training records.
        left_out: rows of all sources that gave no record, by reason.
    """

    train: Prepared
    valid: Prepared | None
    sample: list[Record]
    left_out: dict[str, int] = field(default_factory=dict)


def open_sources(config: RunConfig, entries: Sequence[DatasetConfig]) -> list[Source]:
    """The sources of ``datasets`` or ``test_datasets``; how each is read is said.

    Raises:
        DataError: a missing or empty source, columns that are not recognised.
    """
    sources = []
    for entry in entries:
        fields = entry.source_fields()
        rows = open_rows(config.resolve_path(entry.path), **fields)
        spec = FormatSpec(**entry.format_fields())
        records = open_records(rows, spec)
        if records.reason:
            notice(f"{entry.path}: {records.reason}")
        sources.append(Source(rows, records, spec, entry.weight))
    return sources


def prepare_rows(config: RunConfig, tokenizer: Any, limit: int) -> Rows:
    """Read, encode and split the rows of a run.

    Args:
        limit: tokens of the longest row.

    Raises:
        DataError: bad rows, or none left for training.
    """
    found = _collect(config, tokenizer, limit, config.datasets)
    valid: Prepared | None = None
    train, left_out = found.prepared, dict(found.left_out)
    if config.test_datasets:
        held = _collect(config, tokenizer, limit, config.test_datasets)
        valid = held.prepared
        for reason, count in held.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    elif config.val_set_size:
        train, valid = _held_out(train, config.val_set_size, config.seed)
    weights = [entry.weight for entry in config.datasets]
    return Rows(_weighted(train, found.sizes, weights, config.seed), valid, found.sample, left_out)


def _collect(config: RunConfig, tokenizer: Any, limit: int, entries: Sequence[DatasetConfig]) -> Collected:
    cache = config.dataset_prepared_path
    return collect(
        open_sources(config, entries),
        tokenizer,
        sequence_len=limit,
        excess=config.long_rows,
        train_on=config.trained_part,
        cache=config.resolve_path(cache) if cache else None,
    )


def _held_out(rows: Prepared, size: float, seed: int) -> tuple[Prepared, Prepared]:
    try:
        return rows.split(size, seed)
    except ValueError as error:
        raise DataError(
            f"val_set_size {size} leaves no training rows of {len(rows)}", "a smaller share or count"
        ) from error


def _weighted(train: Prepared, sizes: Sequence[int], weights: Sequence[float], seed: int) -> Prepared:
    """Each source's rows as often as its weight says."""
    if all(weight == 1 for weight in weights):
        return train
    ends = np.cumsum(sizes)
    places = np.arange(len(train))
    parts = [
        weighted(places[(train.order >= end - size) & (train.order < end)], weight, seed)
        for end, size, weight in zip(ends, sizes, weights, strict=True)
    ]
    chosen = train.take(np.concatenate(parts))
    if not len(chosen):
        raise DataError("the weights of the data sets leave no training rows", "a weight above 0")
    return chosen
