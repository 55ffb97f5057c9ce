"""From rows with columns to records: which column is what, and how a prompt is written.

The types and their defaults are Axolotl's; the Alpaca prompt is the one of Stanford Alpaca (2023).
Rows without an answer are left out and counted, a missing column is an error, nothing is guessed in silence.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets

from whet.data.records import ChatRecord, PairRecord, Record, TextRecord
from whet.errors import DataError

ALPACA_FORMAT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_NO_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
ROLES: dict[str, list[str]] = {
    "system": ["system"],
    "user": ["user", "human"],
    "assistant": ["assistant", "gpt"],
    "tool": ["tool"],
}
MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
NO_ANSWER = "no answer"
NO_PROMPT = "no prompt"
NO_TEXT = "no text"

_Make = Callable[[Mapping[str, Any]], Record | str]  # a record, or the reason why the row is left out


@dataclass(frozen=True)
class FormatSpec:
    """How to read the rows of one data set.

    Args:
        kind: ``mapping`` (user-defined), ``alpaca``, ``chat_template``, ``completion``; None: found from the columns.
        field_instruction, field_input, field_output, field_system: columns of a ``mapping``.
        format, no_input_format: the prompt, with ``{instruction}`` and ``{input}``; ``{{`` is a literal brace.
        system_prompt, system_format: a system text for every row, and how it is written (``{system}``).
        field: column of a ``completion``; None: ``text``.
        field_messages: column of a ``chat_template``; None: ``messages``, ``conversations`` or ``conversation``.
        field_role, field_content: names inside a message; None: role or from, content or value.
        roles: names of roles in the rows, ``{"assistant": ["bot"]}``, added to the usual ones.
        drop_system_message: leave system messages out.
    """

    kind: str | None = None
    field_instruction: str = "instruction"
    field_input: str | None = None
    field_output: str = "output"
    field_system: str | None = None
    format: str = "{instruction}\n{input}\n"
    no_input_format: str | None = None
    system_prompt: str = ""
    system_format: str = "{system}"
    field: str | None = None
    field_messages: str | None = None
    field_role: str | None = None
    field_content: str | None = None
    roles: Mapping[str, list[str]] | None = None
    drop_system_message: bool = False


@dataclass(frozen=True)
class FormatResult:
    """The records, how many rows were left out and why, and one sentence on how the rows were read."""

    records: list[Record]
    dropped: dict[str, int] = field(default_factory=dict)
    reason: str = ""


def to_records(rows: datasets.Dataset, spec: FormatSpec) -> FormatResult:
    """Read every row as ``spec`` says.

    Raises:
        DataError: a column that is not there (with the nearest one), an unknown placeholder or role,
            columns that nothing is known about, or no row left.
    """
    columns = list(rows.column_names)
    make, reason = _reader(spec, columns, rows)
    records: list[Record] = []
    dropped: Counter[str] = Counter()
    for index, row in enumerate(_plain_rows(rows)):
        try:
            made = make(row)
        except DataError as error:
            raise DataError(f"row {index + 1}: {error.given}", error.expected, error.fix) from error
        if isinstance(made, str):
            dropped[made] += 1
        else:
            records.append(made)
    if not records:
        why = ", ".join(f"{count} with {what}" for what, count in dropped.items())
        raise DataError(
            f"no row is left of {len(rows)}: {why}", "rows with a question and an answer", f"columns: {columns}"
        )
    return FormatResult(records, dict(dropped), reason)


def _plain_rows(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """The rows as Python values, whatever format the caller has set; in batches: three times faster than row by row."""
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        yield from batch.to_pylist()


def _reader(spec: FormatSpec, columns: list[str], rows: datasets.Dataset) -> tuple[_Make, str]:
    if spec.kind == "mapping":
        return _mapping(spec, columns), "a format of your own"
    if spec.kind == "alpaca":
        return _alpaca(columns), "alpaca: instruction, input, output"
    if spec.kind == "completion":
        column = spec.field or "text"
        _need(columns, column)
        return _completion(column), f"completion: the column {column}, trained as a whole"
    if spec.kind == "chat_template":
        return _chat(spec, columns)
    if spec.kind is None:
        return _recognise(spec, columns, rows)
    raise DataError(f'the type "{spec.kind}" is not known', "alpaca, chat_template, completion or a mapping")


def _recognise(spec: FormatSpec, columns: list[str], rows: datasets.Dataset) -> tuple[_Make, str]:
    """The type by the columns alone. Conversations win over pairs, pairs over plain text."""
    messages = [name for name in (spec.field_messages, *MESSAGE_COLUMNS) if name in columns]
    if messages:
        make, reason = _chat(spec, columns)
    elif {"prompt", "completion"} <= set(columns):
        if isinstance(next(_plain_rows(rows))["prompt"], list):
            make, reason = _chat_pair(spec), "columns prompt and completion, as messages"
        else:
            make, reason = _pair("prompt", "completion"), "columns prompt and completion"
    elif {"instruction", "output"} <= set(columns):
        make, reason = _alpaca(columns), "columns instruction and output: the Alpaca prompt"
    elif (spec.field or "text") in columns:
        column = spec.field or "text"
        make, reason = _completion(column), f"column {column}, trained as a whole"
    else:
        raise DataError(
            f"these columns are not recognised: {', '.join(columns)}",
            "messages, prompt and completion, instruction and output, or text",
            "set type for this data set: {field_instruction: ..., field_output: ..., format: ...}",
        )
    return make, f"type found from the columns: {reason}"


def _mapping(spec: FormatSpec, columns: list[str]) -> _Make:
    for name in (spec.field_instruction, spec.field_input, spec.field_output, spec.field_system):
        if name is not None:
            _need(columns, name)
    known = {"instruction", "input"}
    with_input = _template(spec.format, known, "format")
    without = with_input if spec.no_input_format is None else _template(spec.no_input_format, known, "no_input_format")
    system_text = _template(spec.system_format, {"system"}, "system_format")

    def make(row: Mapping[str, Any]) -> Record | str:
        question, context = cell(row[spec.field_instruction]), cell(row[spec.field_input]) if spec.field_input else ""
        answer = cell(row[spec.field_output])
        system = cell(row[spec.field_system]) if spec.field_system else spec.system_prompt
        if not answer.strip():
            return NO_ANSWER
        if not question.strip() and not context.strip():
            return NO_PROMPT
        frame = with_input if context.strip() else without
        prompt = frame({"instruction": question, "input": context})
        return PairRecord((system_text({"system": system}) if system else "") + prompt, answer)

    return make


def _alpaca(columns: list[str]) -> _Make:
    column = "input" if "input" in columns else None
    return _mapping(FormatSpec(field_input=column, format=ALPACA_FORMAT, no_input_format=ALPACA_NO_INPUT), columns)


def _completion(column: str) -> _Make:
    def make(row: Mapping[str, Any]) -> Record | str:
        text = cell(row[column])
        return TextRecord(text) if text.strip() else NO_TEXT

    return make


def _pair(prompt: str, completion: str) -> _Make:
    def make(row: Mapping[str, Any]) -> Record | str:
        answer = cell(row[completion])
        return PairRecord(cell(row[prompt]), answer) if answer.strip() else NO_ANSWER

    return make


def _chat(spec: FormatSpec, columns: list[str]) -> tuple[_Make, str]:
    column = spec.field_messages or next((name for name in MESSAGE_COLUMNS if name in columns), MESSAGE_COLUMNS[0])
    _need(columns, column)
    return (lambda row: _conversation(row[column], spec)), f"conversations of the column {column}"


def _chat_pair(spec: FormatSpec) -> _Make:
    return lambda row: _conversation([*(row["prompt"] or []), *(row["completion"] or [])], spec)


def _conversation(messages: Any, spec: FormatSpec) -> Record | str:
    if messages is None:
        return "no conversation"
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError("the conversation is no list of messages", '[{"role": "user", "content": "..."}, ...]')
    names = {name: role for role, aliases in ROLES.items() for name in aliases}
    names |= {name: role for role, aliases in (spec.roles or {}).items() for name in aliases}
    result: list[dict[str, str]] = []
    for message in messages:
        if message.get("tool_calls"):
            return "tool calls, which are not supported yet"
        role = names.get(str(_part(message, spec.field_role, ROLE_KEYS, "role")))
        if role is None:
            given = str(_part(message, spec.field_role, ROLE_KEYS, "role"))
            raise DataError(
                f'the role "{given}" is not known', f"one of {', '.join(names)}", f"roles: {{assistant: [{given}]}}"
            )
        if role == "system" and spec.drop_system_message:
            continue
        result.append({"role": role, "content": _content(_part(message, spec.field_content, CONTENT_KEYS, "content"))})
    if not any(message["role"] == "assistant" and message["content"].strip() for message in result):
        return NO_ANSWER
    return ChatRecord(result)


def _part(message: Mapping[str, Any], named: str | None, usual: Iterable[str], what: str) -> Any:
    for key in [named] if named else usual:
        if key in message:
            return message[key]
    given = f"a message has no {named or what}: it has {', '.join(message)}"
    raise DataError(given, f"{named or ' or '.join(usual)}", f"set message_property_mappings: {{{what}: ...}}")


def _content(value: Any) -> str:
    if not isinstance(value, list):
        return cell(value)
    if any(not isinstance(part, Mapping) or part.get("type", "text") != "text" for part in value):
        raise DataError("a message holds more than text", "text (images and sound are not supported yet)")
    return "".join(cell(part.get("text")) for part in value)


def cell(value: Any) -> str:
    """A cell as text: missing values are empty, lists and mappings are JSON, everything else is as Python writes it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _template(text: str, known: set[str], key: str) -> Callable[[Mapping[str, str]], str]:
    """``str.format`` with exactly the names in ``known``; braces around anything that is no name stay as they are."""
    pieces = re.split(r"(\{\{|\}\}|\{[A-Za-z_]\w*\})", text)
    for piece in pieces[1::2]:
        if piece not in ("{{", "}}") and piece[1:-1] not in known:
            names = " and ".join(f"{{{name}}}" for name in sorted(known, reverse=True))
            fix = (
                "the answer follows the format by itself: leave it out" if piece == "{output}" else "correct the format"
            )
            raise DataError(f"{key} holds {piece}", names, fix)
    literal = {"{{": "{", "}}": "}"}

    def fill(values: Mapping[str, str]) -> str:
        return "".join(
            piece if index % 2 == 0 else literal.get(piece) or values.get(piece[1:-1], "")
            for index, piece in enumerate(pieces)
        )

    return fill


def _need(columns: list[str], name: str) -> None:
    if name in columns:
        return
    found = difflib.get_close_matches(name, columns, n=1, cutoff=0.0)
    fix = f'did you mean "{found[0]}"?' if found else ""
    raise DataError(f'the rows have no column "{name}"', f"one of {', '.join(columns)}", fix)
