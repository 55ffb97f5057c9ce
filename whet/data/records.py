"""The three shapes an example can have. Everything after reading speaks only of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One text, trained as a whole."""

    text: str


@dataclass(frozen=True, slots=True)
class PairRecord:
    """A prompt and the completion that follows it directly; nothing is put between them."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """A conversation: ``{"role": ..., "content": ...}`` messages, roles as the chat template names them."""

    messages: list[dict[str, str]]


Record = TextRecord | PairRecord | ChatRecord
