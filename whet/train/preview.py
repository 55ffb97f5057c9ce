"""The rows of a config as tokens, for ``whet preview``: the tokenizer is loaded, the weights never are.

Nothing is kept of the rows, so they are read again for each step. With ``val_set_size`` they are encoded twice: which
rows are held out is drawn among those that training keeps, and that is known only after every row was encoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from whet.config import RunConfig
from whet.console import Progress
from whet.data.answer_documents import documents_of
from whet.data.audit import Audit
from whet.data.audit_report import AuditReport
from whet.data.collect import Source
from whet.data.records import Record
from whet.data.row_check import RowCheck
from whet.data.run_rows import open_sources
from whet.data.tokens import RecordEncoder
from whet.errors import DataError
from whet.models.load import config_of
from whet.text.chat import chat_template_of
from whet.text.encode import Encoded
from whet.train.base import base_name, longest_row, tokenizer_for

Row = tuple[Record, list[Encoded], float]  # with its weight


def preview(config: RunConfig, rows: int = 3) -> AuditReport:
    """Read, encode and audit the rows that ``config`` names.

    Args:
        rows: training rows to show, at most.

    Raises:
        WhetError: a bad config, no rows, no tokenizer. What is wrong with the rows stands in the report.
    """
    tokenizer = tokenizer_for(config)
    template = chat_template_of(tokenizer)
    model = config_of(base_name(config), revision=config.revision_of_model)
    limit = longest_row(config)
    encode = RecordEncoder(tokenizer, config.trained_part)
    audit = Audit(
        tokenizer,
        sequence_len=limit,
        excess=config.long_rows,
        packing=config.sample_packing,
        longest=getattr(model, "max_position_embeddings", None),
        stops=template.stops if template is not None else (),
        show=rows,
        seed=config.seed,
    )
    check = RowCheck(tokenizer, limit, config.long_rows)
    sources = open_sources(config, config.datasets)
    tests = open_sources(config, config.test_datasets or [])
    _fill(audit, config, sources, tests, encode, lambda row: len(check(row[0], row[1]).sizes))
    dropped, damaged = _left_out(sources)
    valid_dropped, valid_damaged = _left_out(tests)
    return audit.finish(
        dropped=dropped,
        damaged=damaged,
        valid_dropped=valid_dropped,
        valid_damaged=valid_damaged,
        about=_about(config, tokenizer, sources),
    )


def _fill(
    audit: Audit,
    config: RunConfig,
    sources: Sequence[Source],
    tests: Sequence[Source],
    encode: RecordEncoder,
    made_of: Callable[[Row], int],
) -> None:
    """Give the audit the validation rows, then the training rows.

    Args:
        made_of: how many rows training makes of one.
    """
    held: set[int] = set()
    if tests:
        for record, encoded, _ in _rows(tests, encode, "reading validation"):
            audit.add_valid(record, *encoded)
    elif config.val_set_size:
        sizes = [made_of(row) for row in _rows(sources, encode, "counting")]
        held = held_out(sizes, config.val_set_size, config.seed)
        for record, encoded, _ in _rows(sources, encode, "reading validation", lambda number: number in held):
            audit.add_valid(record, *encoded)
    for record, encoded, weight in _rows(sources, encode, "reading", lambda number: number not in held):
        audit.add(record, *encoded, weight=weight)


def held_out(sizes: Sequence[int], share: float, seed: int) -> set[int]:
    """The numbers of the records that ``val_set_size`` holds out, drawn as ``Prepared.split`` draws them.

    Args:
        sizes: how many rows training makes of each record.

    Raises:
        DataError: nothing would be left.
    """
    owners = np.repeat(np.arange(len(sizes)), sizes)
    count = max(1, round(share * len(owners))) if share < 1 else int(share)
    if count >= len(owners):
        raise DataError(f"val_set_size {share:g} leaves no training rows of {len(owners)}", "a smaller share or count")
    return set(owners[np.random.default_rng(seed).permutation(len(owners))[:count]].tolist())


def _rows(
    sources: Sequence[Source], encode: RecordEncoder, title: str, wanted: Callable[[int], bool] = lambda number: True
) -> Iterator[Row]:
    """The records that are wanted by their number (over all sources, from 0), each with the tokens of its texts."""
    number = -1
    for source in sources:
        with Progress(f"{title} {source.rows.name}", source.rows.size, "") as progress:
            done = 0
            for records, batch in source.records.batches():
                chosen = []
                for record in records:
                    number += 1
                    chosen += [record] if wanted(number) else []
                yield from ((record, encoded, source.weight) for record, encoded in _encoded(encode, chosen))
                progress.advance(batch.done - done, rows=number + 1)
                done = batch.done


def _encoded(encode: RecordEncoder, records: list[Record]) -> Iterator[tuple[Record, list[Encoded]]]:
    """Each record with the tokens of its texts: of a preference two, the chosen and the rejected."""
    if not records:
        return
    texts = [documents_of(record) for record in records]
    rows = iter(encode([text for group in texts for text in group]))
    for record, group in zip(records, texts, strict=True):
        yield record, list(islice(rows, len(group)))


def _left_out(sources: Sequence[Source]) -> tuple[dict[str, int], int]:
    """Rows that gave no record, by reason, and lines that could not be read."""
    dropped: Counter[str] = Counter()
    for source in sources:
        dropped.update(source.records.dropped)
    return dict(dropped), sum(source.rows.damaged_count for source in sources)


def _about(config: RunConfig, tokenizer: Any, sources: Sequence[Source]) -> dict[str, str]:
    template = "the tokenizer's own" if config.chat_template == "tokenizer_default" else config.chat_template
    about = {
        "config": str(config.source) if config.source else "",
        "model": config.base_model,
        "chat template": template if tokenizer.chat_template else "none",
        "training": "; ".join(f"{source.rows.name} ({source.records.reason})" for source in sources),
        "validation": ", ".join(entry.path for entry in config.test_datasets or []) or _held_out(config),
    }
    return {name: value for name, value in about.items() if value}


def _held_out(config: RunConfig) -> str:
    size = config.val_set_size
    if not size:
        return ""
    return f"{100 * size:g}% of the rows, drawn by seed" if size < 1 else f"{size:g} rows, drawn by seed"
