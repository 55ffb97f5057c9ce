"""Rows whose cells are texts: a mapping of the user's own, Alpaca, prompt and completion, plain text.

The Alpaca prompt is the one of Stanford Alpaca (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whet.data.formats.cells import NO_ANSWER, NO_PROMPT, NO_TEXT, Make, Row, cell, need
from whet.data.formats.frame import Frame, Span, add_span
from whet.data.formats.judge import judge
from whet.data.formats.messages import Message, MessageReader
from whet.data.formats.spec import FormatSpec
from whet.data.formats.tools import tools_of
from whet.data.records import ChatRecord, PairRecord, Record, TextRecord

ALPACA_FORMAT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_NO_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def mapping(spec: FormatSpec, columns: Sequence[str]) -> Make:
    """The user's own format: prompt = system text + format, then the answer.

    Raises:
        DataError: a missing column, or a field that the format may not hold.
    """
    keys = {"field_instruction": spec.field_instruction, "field_input": spec.field_input}
    keys |= {"field_output": spec.field_output, "field_system": spec.field_system}
    for key, name in keys.items():
        if name is not None:
            need(columns, name, key)
    return _framed(spec)


def alpaca() -> Make:
    """Alpaca's prompt of instruction and input (which may be missing), then the output."""
    return _framed(FormatSpec(field_input="input", format=ALPACA_FORMAT, no_input_format=ALPACA_NO_INPUT))


def _framed(spec: FormatSpec) -> Make:
    names = ("instruction", "input")
    with_input = Frame(spec.format, names, "format").fill
    without = with_input
    if spec.no_input_format is not None:
        without = Frame(spec.no_input_format, names, "no_input_format").fill
    write_system = Frame(spec.system_format, ("system",), "system_format").fill
    fixed_system = write_system((spec.system_prompt,), []) if spec.system_prompt else ""
    question_column, context_column = spec.field_instruction, spec.field_input or ""
    answer_column, system_column = spec.field_output, spec.field_system

    def make(row: Row) -> Record | str:
        answer = row.get(answer_column)
        if answer.__class__ is not str:
            answer = cell(answer)
        if not answer or answer.isspace():
            return NO_ANSWER
        question = row.get(question_column)
        if question.__class__ is not str:
            question = cell(question)
        context = row.get(context_column)
        if context.__class__ is not str:
            context = cell(context)
        no_context = not context or context.isspace()
        if no_context and (not question or question.isspace()):
            return NO_PROMPT
        spans: list[Span] = []
        head = fixed_system
        if system_column is not None:
            system = cell(row.get(system_column))
            head = write_system((system,), spans) if system else ""
        prompt = (without if no_context else with_input)((question, context), spans, len(head))
        prompt = head + prompt if head else prompt
        end = len(prompt)
        add_span(spans, end, end + len(answer))
        return PairRecord(prompt, answer, tuple(spans))

    return make


def alpaca_chat(spec: FormatSpec) -> Make:
    """Alpaca's columns as a conversation: instruction and input are the user's message; ``system`` may be there."""
    system_column = spec.field_system or "system"
    drop_system = spec.drop_system_message

    def make(row: Row) -> Record | str:
        answer = cell(row.get("output"))
        if not answer.strip():
            return NO_ANSWER
        question = join_input(cell(row.get("instruction")), cell(row.get("input")))
        if not question.strip():
            return NO_PROMPT
        messages: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        system = "" if drop_system else cell(row.get(system_column))
        if system.strip():
            messages.insert(0, {"role": "system", "content": system})
        return ChatRecord(messages)

    return make


def join_input(question: str, context: str) -> str:
    """A question and its further context as one message."""
    return f"{question}\n{context}" if question.strip() and context.strip() else question or context


def text(column: str) -> Make:
    """One column, trained as a whole."""

    def make(row: Row) -> Record | str:
        found = cell(row.get(column))
        return TextRecord(found) if found.strip() else NO_TEXT

    return make


def prompt_and_completion(spec: FormatSpec) -> Make:
    """Columns prompt and completion: two texts as they are, or messages, of which the completion's are trained."""
    reader = MessageReader(spec)
    prompt_reader = MessageReader(replace(spec, roles_to_train=None))
    read_tools = tools_of(spec.field_tools or "tools")

    def make(row: Row) -> Record | str:
        prompt, completion = row.get("prompt"), row.get("completion")
        if not isinstance(prompt, list | dict) and not isinstance(completion, list | dict):
            answer = cell(completion)
            return PairRecord(cell(prompt), answer) if answer.strip() else NO_ANSWER
        answers = reader.speech(completion, "assistant")
        if not answers:
            return NO_ANSWER
        asked = prompt_reader.speech(prompt, "user")
        for message in asked:
            if message["role"] == "assistant":  # it belongs to the prompt: only the completion is trained
                message.setdefault("train", False)
        messages = asked + answers
        return judge(messages) or ChatRecord(messages, read_tools(row))

    return make
