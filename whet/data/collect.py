"""From sources to prepared rows: read, render, encode, mask and write, a few thousand rows at a time."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.console import Progress, notice, staged_folder
from whet.data.cache import entry_key, prune, tokenizer_fingerprint, user_cache
from whet.data.formats import FormatSpec, RecordStream
from whet.data.parallel import encode_in_order
from whet.data.prepare import Excess, PreparedWriter, load_prepared
from whet.data.prepared import Prepared
from whet.data.records import ChatRecord, LabelRecord, PairRecord, PreferenceRecord, Record, TextRecord
from whet.data.stream import RowStream
from whet.data.tokens import RecordEncoder
from whet.errors import DataError, OutputError

SAMPLE = 300  # records kept to find out which template the rows are written in
CACHED_FROM = 8_000_000  # bytes of source files from which a prepared copy is worth its place on the disk
KINDS = {kind.__name__: kind for kind in (TextRecord, PairRecord, ChatRecord, PreferenceRecord, LabelRecord)}


@dataclass(frozen=True)
class Source:
    """One source of rows, how its rows become records, and how often each is seen in an epoch."""

    rows: RowStream
    records: RecordStream
    spec: FormatSpec
    weight: float = 1.0


@dataclass(frozen=True)
class Collected:
    """Prepared rows of several sources, one after the other.

    Attributes:
        sizes: rows of each source.
        sample: at most ``SAMPLE`` records, drawn evenly, in order.
        left_out: rows that gave no record, by reason.
    """

    prepared: Prepared
    sizes: list[int]
    sample: list[Record]
    left_out: dict[str, int]


def collect(
    sources: Sequence[Source],
    tokenizer: Any,
    *,
    sequence_len: int,
    excess: Excess = "drop",
    train_on: Any = "assistant",
    cache: Path | None = None,
) -> Collected:
    """Prepare all sources; a prepared copy is used where there is one, and kept where it is worth it.

    Args:
        cache: the folder of prepared copies; None takes the user's cache, and only for large sources.

    Raises:
        DataError: a damaged row, no rows, none that can be trained on.
        OutputError: the prepared copy cannot be written.
    """
    root = cache or user_cache()
    if cache is None and sum(source.rows.size or CACHED_FROM for source in sources) < CACHED_FROM:
        return _collect(sources, RecordEncoder(tokenizer, train_on), PreparedWriter(sequence_len, excess))
    key = entry_key(
        sources=[(source.rows.fingerprint(), dataclasses.asdict(source.spec)) for source in sources],
        tokenizer=tokenizer_fingerprint(tokenizer),
        settings=(sequence_len, excess, train_on),
    )
    entry = root / key
    if (entry / "sample.json").is_file():
        notice(f"data: the prepared copy in {entry} is used")
        os.utime(entry)
        return _load(entry)
    try:
        with staged_folder(entry, replace=True) as folder:
            writer = PreparedWriter(sequence_len, excess, folder)
            _save(folder, _collect(sources, RecordEncoder(tokenizer, train_on), writer))
    except OutputError as error:
        fix = "free some space, or set dataset_prepared_path to a folder that can be written"
        raise OutputError(error.given, error.expected, fix) from error
    if cache is None:
        prune(root, entry)
    return _load(entry)


def _collect(sources: Sequence[Source], encode: RecordEncoder, writer: PreparedWriter) -> Collected:
    sample = Reservoir(SAMPLE)
    left_out: Counter[str] = Counter()
    sizes: list[int] = []
    for source in sources:
        before = writer.rows
        with Progress(f"preparing {source.rows.name}", source.rows.size, "") as progress:
            for rows in encode_in_order(encode, _watched(source, sample, progress)):
                writer.add(rows)
        sizes.append(writer.rows - before)
        left_out.update(source.records.dropped)
        left_out.update({"damaged line": count} if (count := source.rows.damaged_count) else {})
    return Collected(writer.finish(), sizes, sample.records(), dict(left_out))


def _watched(source: Source, sample: Reservoir, progress: Progress) -> Iterator[list[Record]]:
    done = rows = 0
    for records, batch in source.records.batches():
        for record in records:
            sample.add(record)
        rows += len(batch.rows)
        progress.advance(batch.done - done, rows=rows)
        done = batch.done
        if records:
            yield records


class Reservoir:
    """An even sample of a stream of unknown length (Vitter 1985, algorithm R), drawn by a fixed seed."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._kept: list[tuple[int, Record]] = []
        self._draw = np.random.default_rng(0)
        self._numbers: list[float] = []

    def add(self, record: Record) -> None:
        """Look at one more."""
        self.seen += 1
        if len(self._kept) < self.size:
            self._kept.append((self.seen, record))
            return
        if not self._numbers:
            self._numbers = self._draw.random(4096).tolist()
        place = int(self._numbers.pop() * self.seen)
        if place < self.size:
            self._kept[place] = (self.seen, record)

    def records(self) -> list[Record]:
        """The sample in the order of the stream."""
        return [record for _, record in sorted(self._kept, key=lambda pair: pair[0])]


def _save(folder: Path, collected: Collected) -> None:
    sample = [{"kind": type(record).__name__, **dataclasses.asdict(record)} for record in collected.sample]
    facts = {"sizes": collected.sizes, "left_out": collected.left_out, "sample": sample}
    (folder / "sample.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")


def _load(folder: Path) -> Collected:
    facts = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    return Collected(
        load_prepared(folder), facts["sizes"], [_record(item) for item in facts["sample"]], facts["left_out"]
    )


def _record(fields: dict[str, Any]) -> Record:
    kind = KINDS.get(fields.pop("kind"))
    if kind is None:
        raise DataError("the prepared copy of the data is damaged", fix="delete it and prepare again")
    if kind is PairRecord:
        fields["content"] = tuple((start, stop) for start, stop in fields["content"])
    record: Record = kind(**fields)
    return record
