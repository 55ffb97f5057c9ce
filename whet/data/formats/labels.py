"""Judged answers: a prompt, one completion, and whether it is good (KTO: Ethayarajh et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.data.formats.asked import PromptReader
from whet.data.formats.cells import NO_ANSWER, NO_PROMPT, Make, Row, first_of, is_missing, need
from whet.data.formats.judge import has_answer
from whet.data.formats.messages import Message
from whet.data.formats.preference import PROMPT_ENDS
from whet.data.formats.spec import FormatSpec
from whet.data.formats.tools import tools_of
from whet.data.records import LabelRecord, Record
from whet.errors import DataError

COMPLETIONS = ("completion", "response", "answer")
LABELS = ("label", "kto_tag")
NO_LABEL = "no label"
_GOOD = ("true", "1", "1.0", "yes", "up", "thumbs_up", "thumbs up", "good", "chosen", "desirable", "👍")
_BAD = ("false", "0", "0.0", "no", "down", "thumbs_down", "thumbs down", "bad", "rejected", "undesirable", "👎")
_WORDS = dict.fromkeys(_GOOD, True) | dict.fromkeys(_BAD, False)


def truth(value: Any) -> bool | None:
    """A label as a truth value; None where it is neither good nor bad."""
    return value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())


def labels(spec: FormatSpec, columns: Sequence[str]) -> tuple[Make, str]:
    """Judged answers of these columns. Without a completion column the conversation ends with the answer.

    Raises:
        DataError: a column that is not there; in a row, a label that is neither true nor false.
    """
    label = need(columns, spec.field_label or first_of(columns, LABELS) or LABELS[0], "field_label")
    asked, read_tools = PromptReader(spec, columns), tools_of(spec.field_tools or "tools")
    completion = first_of(columns, COMPLETIONS)
    if completion is None and asked.column is None:
        need(columns, COMPLETIONS[0])

    def make(row: Row) -> Record | str:
        if is_missing(row.get(label)) or row.get(label) == "":
            return NO_LABEL
        good = truth(row.get(label))
        if good is None:
            raise DataError(f"the label is {row.get(label)!r}", "true or false (1 or 0)")
        prompt, answer = _split(asked, row, completion)
        return _judge(prompt, answer) or LabelRecord(prompt, answer, good, read_tools(row))

    where = completion or "the end of the conversation"
    return make, f"labels: the prompt is {asked.column or 'its beginning'}, the answer {where}, good or bad by {label}"


def _split(asked: PromptReader, row: Row, completion: str | None) -> tuple[list[Message], list[Message]]:
    if asked.column is not None and completion is not None:
        prompt = asked.prompt(row)
        return prompt, asked.answer(row.get(completion), prompt)
    if completion is None:
        whole = asked.prompt(row)
    else:
        whole = asked.conversation(row.get(completion))
        whole = asked.with_system(row, whole) if whole else whole
    return whole[:-1], whole[-1:]


def _judge(prompt: list[Message], answer: list[Message]) -> str:
    if not answer or answer[-1]["role"] != "assistant" or not has_answer(answer[-1]):
        return NO_ANSWER
    if not prompt:
        return NO_PROMPT
    return PROMPT_ENDS if prompt[-1]["role"] == "assistant" else ""
