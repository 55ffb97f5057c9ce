"""What a user says about one data set: its type and which column is what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FormatSpec:
    """How to read the rows of one data set. None: found from the rows.

    Args:
        kind: one of ``whet.config.dataset_keys.DATASET_TYPES``, or ``mapping`` (user-defined).
        field_instruction, field_input, field_output, field_system: columns of a ``mapping``.
        format, no_input_format: the prompt, with ``{instruction}`` and ``{input}``; ``{{`` is a literal brace.
        merged_prompt: a prompt out of any columns (``whet.data.merged_prompt``); the row becomes a conversation.
        system_prompt, system_format: a system text for every row, and how it is written (``{system}``).
        field: column of ``completion`` and ``pretrain``; None: ``text``.
        field_messages: column with the conversation; None: ``messages``, ``conversations`` or ``conversation``.
        field_chosen, field_rejected: columns of a preference pair.
        field_label: column that says whether a completion is good.
        field_tools: column with the tools of a conversation; None: ``tools``.
        field_role, field_content: names inside a message; None: role or from, content or value.
        field_thinking: name inside a message of what was thought before the answer; None: ``reasoning_content``,
            ``thinking`` or ``reasoning``.
        message_field_training: name inside a message of the flag that says whether it is trained; None: ``train`` or
            ``training``.
        properties: names inside a message of further properties, ``{"tool_calls": "calls"}``.
        roles: names of roles in the rows, ``{"assistant": ["bot"]}``, added to the usual ones.
        roles_to_train: roles whose messages are trained; None: the assistant's.
        drop_system_message: leave system messages out.
    """

    kind: str | None = None
    field_instruction: str = "instruction"
    field_input: str | None = None
    field_output: str = "output"
    field_system: str | None = None
    format: str = "{instruction}\n{input}\n"
    no_input_format: str | None = None
    merged_prompt: str | None = None
    system_prompt: str = ""
    system_format: str = "{system}"
    field: str | None = None
    field_messages: str | None = None
    field_chosen: str | None = None
    field_rejected: str | None = None
    field_label: str | None = None
    field_tools: str | None = None
    field_role: str | None = None
    field_content: str | None = None
    field_thinking: str | None = None
    message_field_training: str | None = None
    properties: Mapping[str, str] | None = None
    roles: Mapping[str, Sequence[str]] | None = None
    roles_to_train: Sequence[str] | None = None
    drop_system_message: bool = False
