"""The rows of a comparison: the run's own held-out ones, or those of a file.

A run holds rows out by number of the encoded row, drawn by its seed. Here the rows are encoded as the run encoded them,
drawn by the same seed, and the hash of what is left is compared with the run's manifest: so a held-out row is one that
was not trained on, or it is said that the data is not what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from whet.config import DatasetConfig, RunConfig
from whet.console import notice, warn
from whet.data.answer_documents import documents_of
from whet.data.answer_rows import AnswerWriter
from whet.data.cell_text import cell_text
from whet.data.formats import FormatSpec, open_records
from whet.data.merged_prompt import parse_prompt
from whet.data.prepare import PreparedWriter, gather
from whet.data.prepared import Prepared, data_hash
from whet.data.records import LabelRecord, PairRecord, PreferenceRecord, Record
from whet.data.run_rows import open_sources
from whet.data.stream import open_rows
from whet.data.tokens import RecordEncoder
from whet.errors import DataError
from whet.evaluate.examples import Example, numbered

T = TypeVar("T")

AT_ONCE = 1000  # records that are encoded in one go
TRAINED_ON = "rows that the model was TRAINED on: these figures say how well it remembers, not how well it learnt"


@dataclass(frozen=True)
class Questions:
    """What is asked.

    Attributes:
        what: whose rows they are, in words.
        total: rows that there are; ``examples`` may be some of them.
        trained: whether the model was trained on them.
        source: the file that they come from, where it is one.
    """

    examples: list[Example]
    what: str
    total: int
    trained: bool = False
    source: Path | None = None


def rows_of_file(
    path: Path, n: int, *, config: RunConfig | None = None, kind: str | None = None,
    prompt: str | None = None, answer: str | None = None,
) -> Questions:  # fmt: skip
    """Questions of a file.

    Args:
        n: at most so many, evenly spaced; 0 takes all.
        config: of the run; its first data set says how rows are read.
        kind: a type of rows, such as ``alpaca``; wins over the config.
        prompt: a prompt out of any columns, ``{column}`` with optional ``[[parts]]``, continued as plain text.
        answer: with ``prompt``: the column of the expected answer; None: nothing is expected.

    Raises:
        DataError: a missing or damaged file, unknown columns, or no question in it.
    """
    stream = open_rows(path)
    if prompt is not None:
        records: Iterable[Record] = _prompted(stream, prompt, answer)
    else:
        spec = FormatSpec(kind=kind) if kind else FormatSpec()
        if kind is None and config is not None:
            spec = FormatSpec(**config.datasets[0].format_fields())
        found = open_records(stream, spec)
        if found.reason:
            notice(f"{path}: {found.reason}")
        records = found
    examples, left_out = numbered(records)
    for reason, count in left_out.items():
        notice(f"{path}: {count:,} rows left out: {reason}")
    if not examples:
        raise DataError(f"{path} holds no question", "rows with a prompt", "see how rows are read: whet preview")
    if config is not None and path.resolve() in {config.resolve_path(e.path).resolve() for e in config.datasets}:
        warn(f"{path} is what the run was trained on (but for rows that it held out): {TRAINED_ON}", key="trained on")
        return Questions(spaced(examples, n), f"{path.name}, {TRAINED_ON}", len(examples), True, path)
    return Questions(spaced(examples, n), path.name, len(examples), source=path)


def _prompted(stream: Any, prompt: str, answer: str | None) -> Iterator[Record]:
    parsed = parse_prompt(prompt, stream.columns)
    if answer is not None and answer not in stream.columns:
        raise DataError(f'--answer: there is no column "{answer}"', "one of " + ", ".join(stream.columns))
    for batch in stream.batches():
        for row in batch.rows:
            text = parsed.render({name: cell_text(row.get(name)) for name in parsed.columns})
            yield PairRecord(text, (cell_text(row.get(answer)) or "") if answer else "")


def rows_of_run(run: Path, config: RunConfig, tokenizer: Any, n: int) -> Questions:
    """Questions that the run held out; where it held out none, rows that it was trained on, which is said loudly.

    Raises:
        DataError: its data cannot be read any more.
    """
    manifest = _manifest(run)
    if config.test_datasets:
        examples, _ = numbered(_all(config, config.test_datasets))
        return Questions(
            spaced(examples, n), "the run's test_datasets", len(examples), source=_path(config, config.test_datasets)
        )
    source = _path(config, config.datasets)
    if config.val_set_size:
        owners, held = _held_out(config, tokenizer, manifest)
        rows = set(held)
        trained = {owner for row, owner in enumerate(owners) if row not in rows}  # a text in pieces may be in both
        drawn = {owners[row] for row in held}
        left, what = sorted(drawn - trained), "rows that the run held out (val_set_size)"
        if not left:  # KTO holds single answers out; of a pair the other one is mostly in training
            left, what = sorted(drawn), f"{what}, of which another part was trained on"
        examples, _ = numbered(_records(config, spaced(left, n)))
        return Questions(examples, what, len(left), source=source)
    warn(f"the run held out no rows (val_set_size, test_datasets): compared on {TRAINED_ON}", key="trained on")
    total = sum(1 for _ in _all(config))
    examples, _ = numbered(_records(config, spaced(range(total), n)))
    return Questions(examples, TRAINED_ON, total, trained=True, source=source)


def spaced(items: Sequence[T], n: int) -> list[T]:
    """``n`` of the items, evenly spaced from the first to the last; all of them for 0 or where there are fewer."""
    if not n or n >= len(items):
        return list(items)
    return [items[int(place)] for place in np.unique(np.linspace(0, len(items) - 1, n).round())]


def _all(config: RunConfig, entries: Sequence[DatasetConfig] | None = None) -> Iterator[Record]:
    for source in open_sources(config, entries or config.datasets):
        yield from source.records


def _records(config: RunConfig, chosen: Sequence[int]) -> Iterator[Record]:
    wanted = set(chosen)
    for place, record in enumerate(_all(config)):
        if place in wanted:
            yield record


def _held_out(config: RunConfig, tokenizer: Any, manifest: dict[str, Any]) -> tuple[list[int], list[int]]:
    """For each stored row the record that it comes from, and the stored rows that were held out."""
    limit = int(manifest.get("context_length") or config.sequence_len)
    owners, stored = _answers(config, tokenizer, limit) if config.rl else _documents(config, tokenizer, limit)
    size = config.val_set_size
    count = max(1, round(size * len(owners))) if size < 1 else int(size)
    drawn = np.random.default_rng(config.seed).permutation(len(owners))
    if stored is not None and all(entry.weight == 1 for entry in config.datasets):
        _check(data_hash(stored.split(size, config.seed)[0]), manifest)
    return owners, np.sort(drawn[:count]).tolist()


def _check(found: str, manifest: dict[str, Any]) -> None:
    trained = (manifest.get("data") or {}).get("sha256")
    if trained is not None and trained != found:
        warn(
            "the data is not what the run was trained on: rows that are compared here may have been trained on",
            key="data changed",
        )


def _documents(config: RunConfig, tokenizer: Any, limit: int) -> tuple[list[int], Prepared | None]:
    encode = RecordEncoder(tokenizer, config.trained_part)
    writer, owners, place = PreparedWriter(limit, config.long_rows), list[int](), 0
    records = _all(config)
    while chunk := list(islice(records, AT_ONCE)):
        rows = encode(chunk)
        if np.diff(rows.offsets).max() <= limit and all(rows.spans):
            writer.add(rows)
            owners += range(place, place + len(chunk))
        else:
            for i in range(len(chunk)):
                before = writer.rows
                writer.add(gather([rows[i]]))
                owners += [place + i] * (writer.rows - before)
        place += len(chunk)
    return owners, writer.finish()


def _answers(config: RunConfig, tokenizer: Any, limit: int) -> tuple[list[int], None]:
    """As ``_documents``, of preference rows: a stored row is a pair, or with KTO a judged answer."""
    encode, owners = RecordEncoder(tokenizer), list[int]()
    single = config.rl == "kto"
    before = 0
    for source in open_sources(config, config.datasets):
        writer = AnswerWriter(1 if single else 2, limit, config.long_rows)
        mine: list[int] = []
        records = iter(source.records)
        while chunk := list(islice(records, AT_ONCE)):
            for record in chunk:
                if isinstance(record, PreferenceRecord | LabelRecord):
                    mine += [before] * (2 if single and isinstance(record, PreferenceRecord) else 1)
                before += 1
            writer.add(encode([document for record in chunk for document in documents_of(record)]))
        owners += [mine[kept] for kept in writer.kept]
    return owners, None


def _path(config: RunConfig, entries: Sequence[Any]) -> Path | None:
    path = config.resolve_path(entries[0].path)
    return path if path.is_file() else None


def _manifest(run: Path) -> dict[str, Any]:
    file = run / "manifest.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found
