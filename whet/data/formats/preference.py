"""Preference pairs: one prompt, a better and a worse answer.

The shapes: a conversation column beside two answers (each a text, a message or a list of messages); a prompt text
beside two texts; two whole conversations that share their beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

from whet.data.formats.asked import PromptReader, shared_start
from whet.data.formats.cells import NO_PROMPT, Make, Row, first_of, need
from whet.data.formats.judge import has_answer
from whet.data.formats.messages import Message
from whet.data.formats.spec import FormatSpec
from whet.data.formats.tools import tools_of
from whet.data.records import PreferenceRecord, Record
from whet.errors import DataError

CHOSEN, REJECTED = ("chosen", "chosen_response"), ("rejected", "rejected_response")
NO_CHOSEN, NO_REJECTED = "no chosen answer", "no rejected answer"
SAME = "chosen and rejected are the same"
APART = "chosen and rejected share no beginning"
PROMPT_ENDS = "the prompt ends with an answer"


def pair_columns(spec: FormatSpec, columns: Sequence[str]) -> tuple[str, str] | None:
    """The columns of the two answers, where both are there or named."""
    chosen = spec.field_chosen or first_of(columns, CHOSEN)
    rejected = spec.field_rejected or first_of(columns, REJECTED)
    return (chosen, rejected) if chosen and rejected else None


def preference(spec: FormatSpec, columns: Sequence[str]) -> tuple[Make, str]:
    """Preference pairs of these columns.

    Raises:
        DataError: a column that is not there; in a row, answers of an unknown shape.
    """
    chosen, rejected = pair_columns(spec, columns) or (spec.field_chosen or "chosen", spec.field_rejected or "rejected")
    need(columns, chosen, "field_chosen")
    need(columns, rejected, "field_rejected")
    asked, read_tools = PromptReader(spec, columns), tools_of(spec.field_tools or "tools")

    def make(row: Row) -> Record | str:
        prompt = asked.prompt(row)
        if asked.column is not None:
            prompt, better, worse = _beside_prompt(asked, prompt, row.get(chosen), row.get(rejected))
        else:
            prompt, better, worse = _shared_prompt(asked, row, row.get(chosen), row.get(rejected))
        why = _judge(prompt, better, worse, NO_PROMPT if asked.column else APART)
        return why or PreferenceRecord(prompt, better, worse, read_tools(row))

    where = f"the column {asked.column}" if asked.column else "the beginning that the answers share"
    return make, f"preference pairs: the prompt is {where}, the answers are {chosen} and {rejected}"


def _beside_prompt(
    asked: PromptReader, prompt: list[Message], chosen: object, rejected: object
) -> tuple[list[Message], list[Message], list[Message]]:
    """The prompt has its own column. It may already end with the better answer, which is then taken off."""
    better, worse = asked.answer(chosen, prompt), asked.answer(rejected, prompt)
    if prompt and better and prompt[-1] == better[-1]:
        prompt = prompt[:-1]
        better, worse = asked.answer(chosen, prompt), asked.answer(rejected, prompt)
    return prompt, better, worse


def _shared_prompt(
    asked: PromptReader, row: Row, chosen: object, rejected: object
) -> tuple[list[Message], list[Message], list[Message]]:
    one, other = asked.conversation(chosen), asked.conversation(rejected)
    if len(one) == len(other) == 1 and one[0]["role"] == "assistant":
        given = "chosen and rejected are single answers, and no column holds the prompt"
        raise DataError(given, "a column prompt, question, instruction or messages", "set field_messages")
    count = shared_start(one, other) if one != other else len(one) - 1
    prompt = one[: max(count, 0)]
    return asked.with_system(row, prompt) if prompt else prompt, one[len(prompt) :], other[len(prompt) :]


def _judge(prompt: list[Message], better: list[Message], worse: list[Message], no_prompt: str) -> str:
    if better == worse:
        return SAME if better else NO_CHOSEN
    for answer, why in ((better, NO_CHOSEN), (worse, NO_REJECTED)):
        if not answer or answer[-1]["role"] != "assistant" or not has_answer(answer[-1]):
            return why
    if not prompt:
        return no_prompt
    return PROMPT_ENDS if prompt[-1]["role"] == "assistant" else ""
