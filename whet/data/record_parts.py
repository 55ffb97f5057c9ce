"""What is asked and what is answered in a record of any shape, as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from whet.data.records import ChatRecord, PairRecord, PreferenceRecord, Record, TextRecord

Message = Mapping[str, Any]


class Parts(NamedTuple):
    """What stands before the last answer, all texts that the model is to give, and the class of the row.

    ``label``: what tells rows apart where the answers look like classes; "" for rows that have no single answer.
    """

    prompt: str
    answers: tuple[str, ...]
    label: str = ""

    @property
    def text(self) -> str:
        """The last question and answer, or the whole text."""
        return f"{self.prompt}\n{self.answers[-1]}" if self.answers else self.prompt


def parts_of(record: Record) -> Parts:
    """Prompt and answers. A plain text has no prompt; what a prompt's frame adds is left out where that is known."""
    if isinstance(record, TextRecord):
        return Parts("", (record.text,))
    if isinstance(record, PairRecord):
        return Parts(_own_prompt(record), (record.completion,), record.completion.strip())
    if isinstance(record, ChatRecord):
        return _of_messages(record.messages)
    if isinstance(record, PreferenceRecord):
        return _of_messages([*record.prompt, *record.chosen])._replace(label="")
    return _of_messages([*record.prompt, *record.completion])._replace(label="good" if record.label else "bad")


def _own_prompt(pair: PairRecord) -> str:
    """The cells in a prompt, without the format around them; the whole prompt where it came from one column."""
    cells = [(start, end) for start, end in pair.content if end <= len(pair.prompt)]
    return "\n".join(pair.prompt[start:end] for start, end in cells) or pair.prompt


def _of_messages(messages: Sequence[Message]) -> Parts:
    turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    last = turns[-1] if turns else len(messages)
    prompt = "\n".join(_content(message) for message in messages[:last])
    answers = tuple(_content(messages[i]) for i in turns)
    return Parts(prompt, answers, answers[0].strip() if len(answers) == 1 else "")


def _content(message: Message) -> str:
    """The text of a message; a call of a tool counts as text."""
    calls = message.get("tool_calls")
    return str(message.get("content") or "") + (str(calls) if calls else "")
