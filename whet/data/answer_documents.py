"""The documents of a record: each answer of a preference behind its prompt, as a conversation of its own."""

from __future__ import annotations

from typing import Any

from whet.data.records import ChatRecord, LabelRecord, PreferenceRecord, Record


def documents_of(record: Record) -> list[Record]:
    """What follows a preference's prompt is trained, the prompt is not; other records are one document already."""
    if isinstance(record, PreferenceRecord):
        return [going_on(record, record.chosen), going_on(record, record.rejected)]
    if isinstance(record, LabelRecord):
        return [going_on(record, record.completion)]
    return [record]


def going_on(record: PreferenceRecord | LabelRecord, following: list[dict[str, Any]]) -> ChatRecord:
    """The record's prompt, not trained, and what follows it."""
    prompt = [{**message, "train": False} if message["role"] == "assistant" else message for message in record.prompt]
    return ChatRecord([*prompt, *following], record.tools)
