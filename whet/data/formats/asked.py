"""The prompt of a preference pair or of a judged answer, and the answer that follows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from whet.data.formats.cells import Row, cell, first_of, need
from whet.data.formats.chats import MESSAGE_COLUMNS
from whet.data.formats.columns import join_input
from whet.data.formats.messages import Message, MessageReader
from whet.data.formats.spec import FormatSpec

# Types of Axolotl by the column of the prompt. What stands before the dot is a chat template there; here the run's
# own template writes every data set.
_ANY = (*MESSAGE_COLUMNS, "prompt", "question", "instruction")
_STYLES: dict[str, tuple[str, ...]] = {
    "argilla": ("instruction", "prompt"),
    "argilla_chat": (),
    "bradley_terry": ("input", *_ANY),
    "icr": ("input",),
    "intel": ("question",),
    "prompt_pairs": ("prompt",),
    "ultra": ("prompt",),
}
_WITHOUT_PROMPT = (
    "argilla",
    "argilla_chat",
    "preference",
    "kto",
    "bradley_terry",
)  # the answers may hold the whole conversation
_SPOKEN = re.compile(r"\n\n(Human|Assistant): ?")


class PromptReader:
    """Reads what comes before the answers; made once for a data set.

    Attributes:
        column: where the prompt stands; None: at the beginning of the answers.

    Raises:
        DataError: the type names a column that is not there.
    """

    def __init__(self, spec: FormatSpec, columns: Sequence[str]) -> None:
        self.reader = MessageReader(replace(spec, roles_to_train=None))  # these methods train the answers, always
        self.column = _prompt_column(spec, columns)
        self._system = None if spec.drop_system_message else spec.field_system or "system"

    def prompt(self, row: Row) -> list[Message]:
        """The messages before the answers; empty where the row has none of its own."""
        messages: list[Message] = []
        if self.column is not None:
            value = row.get(self.column)
            if self.column == "instruction" and not isinstance(value, list | dict):
                value = join_input(cell(value), cell(row.get("input")))
            messages = self.reader.speech(value, "user")
        return self.with_system(row, messages) if messages else messages

    def with_system(self, row: Row, messages: list[Message]) -> list[Message]:
        """Put the row's system text in front, unless a system message is there."""
        system = cell(row.get(self._system)) if self._system else ""
        if not system.strip() or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": system}, *messages]

    def conversation(self, value: Any) -> list[Message]:
        """An answer cell that holds the whole conversation: messages, or text with ``Human:`` and ``Assistant:``."""
        if not isinstance(value, str) or not _SPOKEN.match(value):
            return self.reader.speech(value, "assistant")
        pieces = _SPOKEN.split(value)
        roles = {"Human": "user", "Assistant": "assistant"}
        spoken = zip(pieces[1::2], pieces[2::2], strict=True)
        return [{"role": roles[name], "content": text.strip()} for name, text in spoken]

    def answer(self, value: Any, prompt: list[Message]) -> list[Message]:
        """What follows ``prompt``: a text, a message, or a list of messages.

        Of a list that begins with the prompt the rest counts, of any other list its last message.
        """
        messages = self.reader.speech(value, "assistant")
        if len(messages) < 2:
            return messages
        for start in (prompt, [message for message in prompt if message["role"] != "system"]):
            if messages[: len(start)] == start and len(messages) > len(start):
                return messages[len(start) :]
        return messages[-1:]


def shared_start(one: list[Message], other: list[Message]) -> int:
    """How many messages both conversations begin with."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def prompt_styles() -> tuple[str, ...]:
    """The names behind the dot of Axolotl's types."""
    return tuple(_STYLES)


def _prompt_column(spec: FormatSpec, columns: Sequence[str]) -> str | None:
    if spec.field_messages:
        return need(columns, spec.field_messages, "field_messages")
    prefix, _, style = (spec.kind or "preference").partition(".")
    wanted = _STYLES.get(prefix if prefix in _STYLES else style, MESSAGE_COLUMNS if prefix == "chat_template" else _ANY)
    found = first_of(columns, wanted)
    if found is None and wanted and style not in _WITHOUT_PROMPT and prefix not in _WITHOUT_PROMPT:
        return need(columns, wanted[0], "field_messages")
    return found
