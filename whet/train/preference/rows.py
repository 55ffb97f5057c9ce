"""From records to encoded answers: pairs, or judged answers with the other prompts' answers that KTO needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from whet.data.answer_documents import documents_of
from whet.data.answer_rows import AnswerRows, AnswerWriter
from whet.data.prepare import Excess, prepare
from whet.data.records import LabelRecord, PreferenceRecord, Record
from whet.data.tokens import RecordEncoder, encode_records
from whet.errors import DataError

AT_ONCE = 500  # records encoded in one go
LOOK_BACK = 8  # neighbours that are asked for another prompt's answer


def pair_rows(tokenizer: Any, records: Iterable[Record], limit: int, excess: Excess = "drop") -> AnswerRows:
    """Pairs: the chosen and the rejected answer, each behind the prompt.

    Args:
        limit: tokens of the longest text.

    Raises:
        DataError: rows that are no pairs, a text too long with ``excess="error"``, or no pair left.
    """
    encode, writer = RecordEncoder(tokenizer), AnswerWriter(2, limit, excess)
    for chunk in _chunks(_only(records, PreferenceRecord)):
        writer.add(encode([document for record in chunk for document in documents_of(record)]))
    return AnswerRows(writer.finish(), 2, dropped=dict(writer.dropped))


def label_rows(tokenizer: Any, records: Iterable[Record], limit: int, excess: Excess = "drop") -> AnswerRows:
    """Judged answers. A pair counts as a good answer and a bad one.

    Raises:
        DataError: as ``pair_rows``.
    """
    found = [label for record in records for label in _labels(record)]
    encode, writer = RecordEncoder(tokenizer), AnswerWriter(1, limit, excess)
    for chunk in _chunks(iter(found)):
        writer.add(encode([document for record in chunk for document in documents_of(record)]))
    prepared = writer.finish()
    kept = [found[number] for number in writer.kept]
    good = np.array([record.label for record in kept], dtype=bool)
    others, other_of = _others(tokenizer, kept, limit)
    return AnswerRows(prepared, 1, good, others, other_of, dict(writer.dropped))


def _others(tokenizer: Any, records: Sequence[LabelRecord], limit: int) -> tuple[Any, np.ndarray]:
    """For each record its prompt with the answer of a neighbour whose prompt is another one, where both fit."""
    made: list[LabelRecord] = []
    owners: list[int] = []
    for number, record in enumerate(records):
        near = (records[number - back] for back in range(1, min(LOOK_BACK, len(records) - 1) + 1))
        other = next((found for found in near if found.prompt != record.prompt), None)
        if other is not None:
            made.append(LabelRecord(record.prompt, other.completion, record.label, record.tools))
            owners.append(number)
    encoded = list(encode_records(tokenizer, (document for record in made for document in documents_of(record))))
    fitting = [i for i, row in enumerate(encoded) if len(row.ids) <= limit and row.trained]
    other_of = np.full(len(records), -1)
    other_of[[owners[i] for i in fitting]] = np.arange(len(fitting))
    return (prepare((encoded[i] for i in fitting), limit) if fitting else None), other_of


def _labels(record: Record) -> list[LabelRecord]:
    if isinstance(record, PreferenceRecord):
        sides = ((record.chosen, True), (record.rejected, False))
        return [LabelRecord(record.prompt, answer, good, record.tools) for answer, good in sides]
    return list(_only([record], LabelRecord))


def _only(records: Iterable[Record], kind: type[Any]) -> Iterator[Any]:
    wanted = "a prompt, a chosen and a rejected answer" if kind is PreferenceRecord else "a prompt, an answer, a label"
    for record in records:
        if not isinstance(record, kind):
            raise DataError(
                f"a row of the kind {type(record).__name__}", wanted, "leave out rl and reward_model to train on them"
            )
        yield record


def _chunks(records: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(islice(records, AT_ONCE)):
        yield chunk
