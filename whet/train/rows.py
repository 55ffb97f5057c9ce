"""Training and validation records of a run, as its config names or splits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from whet.config import DatasetConfig, RunConfig
from whet.console import notice
from whet.data.formats import FormatSpec, to_records
from whet.data.records import Record
from whet.data.sources import read_rows
from whet.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Records of one side (training or validation) and what was left out."""

    records: list[Record]
    dropped: dict[str, int] = field(default_factory=dict)


def read_records(config: RunConfig) -> tuple[Rows, Rows]:
    """Training and validation records, as the config names or splits them."""
    train = _read_all(config, config.datasets)
    if config.test_datasets:
        return train, _read_all(config, config.test_datasets)
    if not config.val_set_size:
        return train, Rows([])
    return _split(train, config.val_set_size, config.seed)


def _split(rows: Rows, size: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out a share (below 1) or a number of records, drawn by seed."""
    total = len(rows.records)
    count = max(1, round(size * total)) if size < 1 else int(size)
    if count >= total:
        raise DataError(f"val_set_size {size} leaves no training rows of {total}", "a smaller share or count")
    held = set(np.random.default_rng(seed).permutation(total)[:count].tolist())
    kept = [record for i, record in enumerate(rows.records) if i not in held]
    return Rows(kept, rows.dropped), Rows([rows.records[i] for i in sorted(held)])


def _read_all(config: RunConfig, sources: Sequence[DatasetConfig]) -> Rows:
    records: list[Record] = []
    dropped: dict[str, int] = {}
    for source in sources:
        rows = read_rows(
            config.resolve_path(source.path),
            name=source.name,
            split=source.split,
            file_type=source.ds_type,
            revision=source.revision,
            data_files=source.data_files,
        )
        found = to_records(rows, FormatSpec(**source.format_fields()))
        if found.reason:
            notice(f"{source.path}: {found.reason}")
        records += found.records
        for reason, count in found.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return Rows(records, dropped)
