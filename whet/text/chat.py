"""A chat template in all its forms: Jinja, pieces, Ollama's Go, stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whet.text.template import TurnTemplate, from_jinja


@dataclass(frozen=True)
class ChatTemplate:
    """The one parsed object.

    Attributes:
        jinja: what the tokenizer and the GGUF hold; the truth.
        pieces: the same as fixed texts around each message, proved on probe conversations; None where it is not so.
        go: the TEMPLATE of an Ollama Modelfile; None where none renders the same text.
        no_go: why there is no Go form; "" where there is one.
        stops: texts at which generation ends: turn terminators only.
        ends_answers: whether an answer is followed by more than white space.
    """

    jinja: str
    pieces: TurnTemplate | None
    go: str | None
    no_go: str
    stops: tuple[str, ...]
    ends_answers: bool


def chat_template_of(tokenizer: Any) -> ChatTemplate | None:
    """The tokenizer's own chat template; None where it has none."""
    if not tokenizer.chat_template:
        return None
    pieces = from_jinja(tokenizer)
    jinja = str(tokenizer.chat_template)
    if pieces is None:
        return ChatTemplate(jinja, None, None, "it does more than write fixed text around each message", (), True)
    go = None if pieces.no_go else pieces.go()
    return ChatTemplate(jinja, pieces, go, pieces.no_go, pieces.stops, pieces.ends_answers)
