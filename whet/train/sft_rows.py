"""The rows that a notebook hands to ``SFTTrainer``, as records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import datasets
from jinja2.exceptions import TemplateError

from whet.data.formats import FormatSpec, to_records
from whet.data.records import ChatRecord, LabelRecord, PreferenceRecord, Record, TextRecord
from whet.data.tables import column_names, column_values
from whet.data.turns import MESSAGE_COLUMNS, role_names, standard_messages
from whet.errors import DataError
from whet.text.frame import sample
from whet.text.jinja import own_bos

COMPARED = 64  # texts that are compared with the conversations beside them


@dataclass(frozen=True)
class SftRows:
    """What a data set holds.

    Attributes:
        records: what is trained.
        chats: the conversations beside the texts, one for each record, where the data set has both; else empty.
    """

    records: list[Record]
    chats: tuple[ChatRecord, ...] = ()

    def are_rendered(self, tokenizer: Any) -> bool:
        """Whether the texts are the conversations beside them, in the tokenizer's chat template; looked at in a sample.

        A missing bos, and missing white space at the end, are allowed.
        """
        bos = own_bos(tokenizer)
        pairs = sample(list(zip(self.records, self.chats, strict=True)), COMPARED) if self.chats else []
        return bool(pairs) and all(
            isinstance(record, TextRecord) and _same(_render(tokenizer, chat), record.text, bos)
            for record, chat in pairs
        )


def read_rows(dataset: Any, text_field: str, formatting_func: Callable[[Any], Any] | None) -> SftRows:
    """Records of a notebook's data set: formatted texts, a text column, or whatever its columns are.

    Raises:
        DataError: no data set, no rows, columns that nothing is known about, or rows of preferences.
    """
    if dataset is None:
        raise DataError("SFTTrainer was given no train_dataset", "rows to train on")
    rows = dataset if isinstance(dataset, datasets.Dataset) else datasets.Dataset.from_list(list(dataset))
    if len(rows) == 0:
        raise DataError("the data set is empty", "at least one row")
    if formatting_func is not None:
        texts: list[Record] = [TextRecord(text) for text in _formatted(rows, formatting_func)]
        return SftRows(texts, _chats(rows))
    if text_field not in rows.column_names:
        return SftRows(_usable(to_records(rows, FormatSpec()).records))
    spec = FormatSpec(kind="completion", field=text_field)
    records = to_records(rows.select_columns([text_field]), spec).records
    chats = _chats(rows)
    return SftRows(records, chats if len(chats) == len(records) else ())


def _usable(records: list[Record]) -> list[Record]:
    """Refuse what only preference training can use."""
    if any(isinstance(record, PreferenceRecord | LabelRecord) for record in records):
        pairs = any(isinstance(record, PreferenceRecord) for record in records)
        found = "pairs of a better and a worse answer" if pairs else "answers judged good or bad"
        raise DataError(
            f"the rows are {found}, and SFTTrainer cannot train on such rows",
            "texts, conversations, or prompts and completions",
            "keep the prompt and the better answer as prompt and completion, or use a preference method",
        )
    return records


def _chats(rows: datasets.Dataset) -> tuple[ChatRecord, ...]:
    """The conversations of the rows; none where there is no such column, or it cannot be read."""
    column = next((name for name in MESSAGE_COLUMNS if name in column_names(rows)), None)
    if column is None:
        return ()
    roles = role_names((), ("user", "human"), ("assistant", "gpt"))
    try:
        found = [standard_messages(messages, roles, "") for messages in column_values(rows, column)]
    except DataError:
        return ()
    return tuple(ChatRecord([_without_none(message) for message in messages]) for messages in found)


def _without_none(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


def _render(tokenizer: Any, chat: ChatRecord) -> str | None:
    try:
        return str(tokenizer.apply_chat_template(chat.messages, tokenize=False)) if tokenizer.chat_template else None
    except (TemplateError, TypeError, ValueError, KeyError):
        return None


def _same(rendered: str | None, text: str, bos: str) -> bool:
    return rendered is not None and rendered.removeprefix(bos).rstrip() == text.removeprefix(bos).rstrip()


def _formatted(rows: datasets.Dataset, formatting_func: Callable[[Any], Any]) -> Iterable[str]:
    """A formatting function takes a batch of rows and gives a list of texts, or takes one row and gives a text."""
    try:
        texts = formatting_func(rows[:])
    except (TypeError, ValueError, KeyError, AttributeError, IndexError):  # written for one row
        texts = None
    if not isinstance(texts, list) or len(texts) != len(rows):
        texts = [formatting_func(row) for row in rows]
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"formatting_func gave {type(wrong).__name__}", "a text for a row, or a list of texts")
    return texts
