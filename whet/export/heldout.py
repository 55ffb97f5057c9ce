"""Texts that an exported model is compared on beside the probes: rows of the run that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from whet.config import RunConfig, load_config
from whet.console import notice
from whet.data.formats import FormatSpec, open_records
from whet.data.prepared import Prepared
from whet.data.run_rows import prepare_rows
from whet.data.stream import open_rows
from whet.data.tokens import encode_records
from whet.errors import DataError, WhetError
from whet.export.adapter import run_folder_of
from whet.text.encode import IGNORE
from whet.text.masks import TrainOn

ROWS = 6  # rows that are compared; more positions come from each
LONGEST = 384  # tokens of a row that are read; the rest costs time and shows nothing new
READ = 2_000  # rows of a file that are looked at


@dataclass(frozen=True)
class HeldOut:
    """Rows as tokens. ``labels`` has ``IGNORE`` where nothing is trained. ``what`` says whose rows they are."""

    ids: list[list[int]]
    labels: list[list[int]]
    what: str


def held_out_rows(against: Path | str, tokenizer: Any, data: Path | str | None = None) -> HeldOut | None:
    """Rows of ``data``; else the run's validation rows; else the last rows of its training data, said as such.

    Returns:
        None where the model is no run, or its data is not to be had any more (which is said).

    Raises:
        DataError: ``data`` cannot be read, or holds no rows that can be used.
    """
    run = run_folder_of(against)
    settings = _settings(run) if run is not None else None
    if data is not None:
        return _of_file(Path(data), tokenizer, settings)
    if run is None or settings is None:
        return None
    try:
        rows = prepare_rows(settings, tokenizer, settings.sequence_len)
    except WhetError as error:
        _say_missing(run, error)
        return None
    if rows.valid is not None and len(rows.valid):
        return _pick(rows.valid, np.linspace(0, len(rows.valid) - 1, ROWS), "the run's validation rows")
    return _pick(rows.train, np.arange(len(rows.train))[-ROWS:], "the last training rows")


def _settings(run: Path) -> RunConfig | None:
    try:
        return load_config(run / "config.yml")
    except WhetError as error:
        _say_missing(run, error)
        return None


def _say_missing(run: Path, error: WhetError) -> None:
    notice(f"the rows of {run} are not to be had ({error.given}): compared on whet's own probes only")


def _pick(rows: Prepared, places: np.ndarray, what: str) -> HeldOut | None:
    pairs = [rows.row(int(place)) for place in np.unique(places.round().astype(np.int64))]
    return _cut([(ids.tolist(), labels.tolist()) for ids, labels in pairs], what)


def _of_file(path: Path, tokenizer: Any, settings: RunConfig | None) -> HeldOut:
    spec: FormatSpec = FormatSpec()
    train_on: TrainOn = "assistant"
    if settings is not None:  # rows of the shape that the run was trained on
        spec, train_on = FormatSpec(**settings.datasets[0].format_fields()), settings.trained_part
    records = list(islice(open_records(open_rows(path), spec), READ))
    chosen = [records[int(place)] for place in np.unique(np.linspace(0, len(records) - 1, ROWS).round())]
    encoded = encode_records(tokenizer, chosen, train_on=train_on)
    found = _cut([(row.ids, row.labels) for row in encoded], path.name)
    if found is None:
        raise DataError(f"{path} holds no row that can be compared on", "rows as for training")
    return found


def _cut(pairs: Sequence[tuple[list[int], list[int]]], what: str) -> HeldOut | None:
    kept = [(ids[:LONGEST], labels[:LONGEST]) for ids, labels in pairs]
    kept = [pair for pair in kept if any(label != IGNORE for label in pair[1][1:])]
    return HeldOut([ids for ids, _ in kept], [labels for _, labels in kept], what) if kept else None
