"""One chat template as data: the pieces of text around each message.

From these pieces come the rendered text, the Jinja form (``jinja()``, for a tokenizer or a GGUF) and Ollama's Go form
(``go()``). All of them write the same text; tests render each form with its own engine and compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import DataError


@dataclass(frozen=True)
class Turn:
    """The text written before and after the content of a message."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class TurnTemplate:
    """A template that writes each message between two fixed texts.

    Attributes:
        user, assistant: the pieces of these turns. ``assistant.after`` is the terminator.
        system: the pieces of a system message; None when the template has no place for one (it is then an error).
        default_system: what stands in the system's place when no system message is given; "" leaves the place empty
            but keeps its pieces; None writes nothing.
        prefix: written once, at the start.
        generation: what ends a prompt, where the assistant is to speak; None means ``assistant.before``. It differs
            where a frame ends in a space ("SQL: "): a tokenizer joins that space to the answer's first word, so the
            prompt must end before it.
        bos: the text of the token that every text begins with. The Go form leaves it out: llama.cpp adds it.
        system_each_turn: the system's pieces and text are written again before every user message. This is how rows
            of one question each, formatted by hand, go on: as one such row after the other. Several system messages
            are then joined by an empty line, as Ollama does.
    """

    user: Turn
    assistant: Turn
    system: Turn | None = None
    default_system: str | None = None
    prefix: str = ""
    generation: str | None = None
    bos: str = ""
    system_each_turn: bool = False

    @property
    def generation_prompt(self) -> str:
        """The end of a prompt."""
        return self.assistant.before if self.generation is None else self.generation

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which generation ends: the terminator of the assistant's turn, if it is more than white space."""
        stop = self.assistant.after.strip()
        return (stop,) if stop else ()

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> str:
        """The conversation as text.

        Raises:
            DataError: a role other than system, user, assistant, or a system message without a place.
        """
        parts = [self.bos, self.prefix]
        if self.system_each_turn:
            parts += self._render_each_turn(messages)
        else:
            if self.default_system is not None and not (messages and messages[0]["role"] == "system"):
                parts.append(self._wrap("system", self.default_system))
            parts += [self._wrap(message["role"], message["content"]) for message in messages]
        if add_generation_prompt:
            parts.append(self.generation_prompt)
        return "".join(parts)

    def jinja(self) -> str:
        """The template as Jinja, for ``tokenizer.chat_template`` and a GGUF."""
        from whet.text.jinja import to_jinja

        return to_jinja(self)

    def go(self) -> str:
        """The template as Go text/template, for the TEMPLATE of an Ollama Modelfile."""
        from whet.text.gotemplate import to_go

        return to_go(self)

    def _render_each_turn(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        texts = [message["content"] for message in messages if message["role"] == "system"]
        system = "\n\n".join(texts) if texts else self.default_system
        for message in messages:
            if message["role"] == "user" and system is not None:
                yield self._wrap("system", system)
            if message["role"] != "system":
                yield self._wrap(message["role"], message["content"])

    def _wrap(self, role: str, content: str) -> str:
        turn = {"system": self.system, "user": self.user, "assistant": self.assistant}.get(role)
        if turn is None:
            places = "system, user, assistant" if self.system else "user, assistant"
            raise DataError(f"a message with the role {role!r}", f"the roles of this template: {places}")
        return turn.before + content + turn.after


def bundled(name: str) -> TurnTemplate:
    """A template that comes with whet, by name.

    Raises:
        DataError: an unknown name; the message lists the known ones.
    """
    from whet.text.templates import BUNDLED

    if name not in BUNDLED:
        raise DataError(f"chat template {name!r}", "one of " + ", ".join(sorted(BUNDLED)))
    return BUNDLED[name]


def from_jinja(tokenizer: Any) -> TurnTemplate | None:
    """The tokenizer's own chat template as pieces, proved on probe conversations; None when it is not of this kind."""
    from whet.text.jinja import derive

    return derive(tokenizer)
