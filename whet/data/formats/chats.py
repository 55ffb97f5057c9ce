"""Rows that hold a conversation: ShareGPT, OpenAI messages, and their kin."""

from __future__ import annotations

from collections.abc import Sequence

from whet.data.formats.cells import Make, Row, cell, first_of, is_missing, need
from whet.data.formats.judge import EMPTY, judge
from whet.data.formats.messages import MessageReader
from whet.data.formats.spec import FormatSpec
from whet.data.formats.tools import tools_of
from whet.data.records import ChatRecord, Record

MESSAGE_COLUMNS = ("messages", "conversations", "conversation")


def conversation_column(spec: FormatSpec, columns: Sequence[str]) -> str:
    """The column with the conversation.

    Raises:
        DataError: it is not there.
    """
    found = spec.field_messages or first_of(columns, MESSAGE_COLUMNS) or MESSAGE_COLUMNS[0]
    return need(columns, found, "field_messages")


def chat(spec: FormatSpec, columns: Sequence[str]) -> tuple[Make, str]:
    """Conversations of one column; columns of tools and of a system text are read where they are."""
    column = conversation_column(spec, columns)
    if spec.field_tools:
        need(columns, spec.field_tools, "field_tools")
    tools_column, system_column = spec.field_tools or "tools", spec.field_system or "system"
    reader = MessageReader(spec)
    read, read_tools, drop_system = reader.read, tools_of(tools_column), spec.drop_system_message

    def make(row: Row) -> Record | str:
        value = row.get(column)
        if value is None or value == "" or is_missing(value):
            return EMPTY
        messages = read(value)
        why = judge(messages)
        if why:
            return why
        system = row.get(system_column)
        if system is not None and not drop_system and messages[0]["role"] != "system":
            system = cell(system)
            if system.strip():
                messages.insert(0, {"role": "system", "content": system})
        return ChatRecord(messages, read_tools(row))

    beside = [name for name in (tools_column, system_column) if name in columns and name != column]
    return make, f"conversations of the column {column}" + (f", with {' and '.join(beside)}" if beside else "")
