"""What a comparison asks: a prompt, and where the data has them the expected answer and a worse one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whet.data.records import ChatRecord, LabelRecord, PairRecord, PreferenceRecord, Record, TextRecord
from whet.evaluate.prompts import text_ids
from whet.text.masks import Marker

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Example:
    """One prompt.

    Attributes:
        prompt: messages, which the chat template writes, or a text that is continued as it is.
        expected: the messages that should follow (one message for a text); empty where nobody knows.
        rejected: messages that should rather not follow; empty without.
        tools: that the assistant may call.
        number: of its row in the data, from 1.
        group: the part of the questions that it belongs to, or "".
    """

    prompt: str | tuple[Mapping[str, Any], ...]
    expected: tuple[Mapping[str, Any], ...] = ()
    rejected: tuple[Mapping[str, Any], ...] = ()
    tools: list[dict[str, Any]] | None = None
    number: int = 0
    group: str = ""

    @property
    def expected_text(self) -> str | None:
        """What the answer should be."""
        return text_of(self.expected) if self.expected else None

    @property
    def prompt_text(self) -> str:
        """The prompt to read: one message is its content, a conversation has the roles before the messages."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1:
            return text_of(self.prompt)
        return "\n\n".join(f"{message['role']}: {text_of([message])}" for message in self.prompt)

    def record(self, following: Messages) -> Record:
        """The prompt with an answer behind it; only the answer is trained, so only it has labels."""
        if isinstance(self.prompt, str):
            return PairRecord(self.prompt, text_of(following))
        before = [{**message, "train": False} for message in self.prompt]
        return ChatRecord([*before, *({**message, "train": True} for message in following)], self.tools)


def text_of(messages: Messages) -> str:
    """The texts of messages; tool calls as JSON."""
    parts = []
    for message in messages:
        content = message.get("content") or ""
        calls = message.get("tool_calls")
        parts.append(content + ("\n" if content and calls else "") + (_json(calls) if calls else ""))
    return "\n".join(parts)


def prompt_ids(tokenizer: Any, example: Example) -> list[int]:
    """The prompt as tokens, ending where the answer's first token begins.

    Spaces at the end of a text are left to the answer where the tokenizer joins them with the word that follows, as it
    did in training: after a space of its own, a model continues as it never learnt to.

    Raises:
        ModelError: messages, and the tokenizer has no chat template.
        DataError: the template refuses the messages.
    """
    if isinstance(example.prompt, str):
        bare = text_ids(tokenizer, example.prompt.rstrip(" "))
        joined = text_ids(tokenizer, example.prompt + "a")
        whole = text_ids(tokenizer, example.prompt)
        return bare if bare and joined[: len(whole)] != whole and joined[: len(bare)] == bare else whole
    messages = [{key: value for key, value in message.items() if key != "train"} for message in example.prompt]
    text = Marker(tokenizer).render(messages, add_generation_prompt=True, tools=example.tools)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def example_of(record: Record, number: int = 0) -> Example | str:
    """The question of a record, or why it has none.

    Of a conversation the last assistant's answer is expected, all before it is the prompt. Of a plain text the first
    half of its words is the prompt.
    """
    if isinstance(record, PairRecord):
        answer = ({"role": "assistant", "content": record.completion},) if record.completion else ()
        return Example(record.prompt, answer, number=number) if record.prompt else "no prompt"
    if isinstance(record, PreferenceRecord):
        return Example(tuple(record.prompt), tuple(record.chosen), tuple(record.rejected), record.tools, number)
    if isinstance(record, LabelRecord):
        judged = tuple(record.completion)
        good, bad = (judged, ()) if record.label else ((), judged)
        return Example(tuple(record.prompt), good, bad, record.tools, number)
    if isinstance(record, TextRecord):
        return _halved(record.text, number)
    last = next((i for i in reversed(range(len(record.messages))) if record.messages[i]["role"] == "assistant"), 0)
    if not last:
        return "no question with an answer"
    return Example(tuple(record.messages[:last]), (record.messages[last],), (), record.tools, number)


def _halved(text: str, number: int) -> Example | str:
    ends = [found.end() for found in re.finditer(r"\S+", text)]
    if len(ends) < 2:
        return "a text of one word"
    cut = ends[len(ends) // 2 - 1]
    return Example(text[:cut], ({"role": "assistant", "content": text[cut:]},), number=number)


def numbered(records: Iterable[Record]) -> tuple[list[Example], dict[str, int]]:
    """The questions of records, and how many have none, by reason."""
    found: list[Example] = []
    left_out: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        made = example_of(record, number)
        if isinstance(made, str):
            left_out[made] = left_out.get(made, 0) + 1
        else:
            found.append(made)
    return found, left_out


def grouped(examples: Sequence[Example], groups: Sequence[str]) -> list[Example]:
    """The same examples with a group each."""
    return [replace(example, group=group) for example, group in zip(examples, groups, strict=True)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
