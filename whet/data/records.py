"""The shapes an example can have. Everything after reading speaks only of these.

A message is a mapping with ``role`` (system, user, assistant or tool) and ``content`` (text). Where the row says so it
also has ``reasoning_content`` (text), ``tool_calls`` (a list), ``tool_call_id``, ``name`` and ``train`` (bool: is this
message trained, whatever its role). Thinking written inside of ``content`` stays there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One text, trained as a whole."""

    text: str


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A prompt and the completion that follows it directly; nothing is put between them.

    ``content``: ranges ``(start, end)`` of characters of ``prompt + completion`` that come from cells of the data, not
    from a format. The text of a special token inside of them is encoded literally.
    """

    prompt: str
    completion: str
    content: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """A conversation, and the tools that the assistant may call."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class PreferenceRecord:
    """A shared beginning and two ways to go on: ``chosen`` is better than ``rejected``."""

    prompt: list[dict[str, Any]]
    chosen: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """A prompt and one way to go on, judged good (True) or bad (False), as KTO trains it."""

    prompt: list[dict[str, Any]]
    completion: list[dict[str, Any]]
    label: bool
    tools: list[dict[str, Any]] | None = None


Record = TextRecord | PairRecord | ChatRecord | PreferenceRecord | LabelRecord
