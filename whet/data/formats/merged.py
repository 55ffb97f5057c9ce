"""Rows of any columns, merged into one question."""

from __future__ import annotations

from collections.abc import Sequence

from whet.data.cell_text import cell_text
from whet.data.formats.cells import NO_ANSWER, NO_PROMPT, Make, Row, cell, need
from whet.data.formats.messages import Message
from whet.data.formats.spec import FormatSpec
from whet.data.merged_prompt import parse_prompt
from whet.data.records import ChatRecord, Record


def merged(spec: FormatSpec, prompt: str, columns: Sequence[str]) -> Make:
    """The merged prompt is the user's message, ``field_output`` the answer; a system text may stand before.

    Raises:
        DataError: a missing column, or a prompt that cannot be read (with a caret at the fault).
    """
    need(columns, spec.field_output, "field_output")
    if spec.field_system is not None:
        need(columns, spec.field_system, "field_system")
    parsed = parse_prompt(prompt, columns)

    def make(row: Row) -> Record | str:
        answer = cell(row.get(spec.field_output))
        if not answer.strip():
            return NO_ANSWER
        question = parsed.render({name: cell_text(row.get(name)) for name in columns})
        if not question.strip():
            return NO_PROMPT
        messages: list[Message] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        system = cell(row.get(spec.field_system)) if spec.field_system else spec.system_prompt
        if system.strip():
            messages.insert(0, {"role": "system", "content": system})
        return ChatRecord(messages)

    return make
