"""One chat template as data: the pieces of text around each message.

From these pieces come the rendered text, the Jinja form (``jinja()``, for a tokenizer or a GGUF) and Ollama's Go form
(``go()``). All of them write the same text; tests render each form with its own engine and compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from whet.errors import DataError

Messages = Sequence[Mapping[str, Any]]
SystemPlace = Literal["turn", "start", "first_user", "each_turn"]


class Segment(NamedTuple):
    """A stretch of the rendered text.

    Attributes:
        message: the index of the message that it belongs to; -1 for what no message asked for: the prefix, the default
            system message, the suffix and the generation prompt.
        part: the content of the message, or fixed text before or after it.
    """

    text: str
    message: int
    part: Literal["before", "content", "after"]


@dataclass(frozen=True)
class Turn:
    """The text written before and after the content of a message."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class TurnTemplate:
    """A template that writes each message between two fixed texts.

    Attributes:
        user, assistant: the pieces of these turns. ``assistant.after`` begins with the terminator.
        system: the pieces of a system message; None when the template has no place for one (it is then an error).
        default_system: what stands in the system's place when no system message is given; "" leaves the place empty
            but keeps its pieces; None writes nothing.
        prefix: written once, at the start.
        generation: what ends a prompt, where the assistant is to speak; None means ``assistant.before``. It differs
            where a frame ends in a space ("SQL: "): a tokenizer joins that space to the answer's first word, so the
            prompt must end before it.
        bos: the text of the token that every text begins with. The Go form leaves it out: llama.cpp adds it.
        system_place: where a system message is written.
            "turn": where it stands among the messages. "start": the same, but only the first message may be one.
            "first_user": inside the first user turn, between ``user.before`` and the user's text; only the first
            message may be one.
            "each_turn": again before every user message. This is how rows of one question each, formatted by hand, go
            on: as one such row after the other. Several system messages are then joined by an empty line, as Ollama
            does.
        later_system: the pieces of a system message that is not the first message, where they differ (place "turn").
        skip_empty_system: an empty system message counts as none.
        trim: contents are written without the white space around them.
        trim_system: the same for system messages; None: as ``trim`` says.
        suffix: written once, at the end, unless the text ends in a generation prompt.
        stop: the terminator of the assistant's turn; None takes ``assistant.after`` without the white space around it.
        extra_stops: more texts at which generation ends.
    """

    user: Turn
    assistant: Turn
    system: Turn | None = None
    default_system: str | None = None
    prefix: str = ""
    generation: str | None = None
    bos: str = ""
    system_place: SystemPlace = "turn"
    later_system: Turn | None = None
    skip_empty_system: bool = False
    trim: bool = False
    trim_system: bool | None = None
    suffix: str = ""
    stop: str | None = None
    extra_stops: tuple[str, ...] = ()

    @property
    def generation_prompt(self) -> str:
        """The end of a prompt."""
        return self.assistant.before if self.generation is None else self.generation

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which generation ends: the terminator, if it is more than white space, then the extra ones."""
        stop = self.assistant.after if self.stop is None else self.stop
        found = (stop.strip(), *self.extra_stops)
        return tuple(dict.fromkeys(text for text in found if text.strip()))

    @property
    def ends_answers(self) -> bool:
        """Whether an answer is followed by more than white space, so that a model can learn where to stop."""
        return bool(self.assistant.after.strip())

    def render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        """The conversation as text.

        Raises:
            DataError: a role without a place, a content that is no text, or a tool call.
        """
        return "".join([segment.text for segment in self.segments(messages, add_generation_prompt)])

    def segments(self, messages: Messages, add_generation_prompt: bool = False) -> list[Segment]:
        """The conversation as stretches of text, in order; joined they are ``render``'s text.

        Each message gives "before", "content" and "after", empty ones included, and its content exactly once (only with
        the place "each_turn" the system's is repeated for each user message). Other empty texts are left out.

        Raises:
            DataError: as ``render``.
        """
        contents = [self._content(message, i) for i, message in enumerate(messages)]
        found = [Segment(self.bos + self.prefix, -1, "before")]
        if self.system_place == "each_turn":
            found += self._each_turn(messages, contents)
        else:
            found += self._in_order(messages, contents)
        found.append(
            Segment(self.generation_prompt, -1, "before")
            if add_generation_prompt
            else Segment(self.suffix, -1, "after")
        )
        return [segment for segment in found if segment.text or segment.message >= 0]

    def fits(self, messages: Messages, tools: Sequence[Any] | None = None) -> bool:
        """Whether these messages hold only what pieces can write: no tools, no thinking in a field of its own."""
        roles = {"user", "assistant"} | ({"system"} if self.system is not None else set())
        extra = ("tool_calls", "reasoning_content", "thinking")
        if tools or any(m.get("role") not in roles or not isinstance(m.get("content"), str) for m in messages):
            return False
        if self.system_place in ("start", "first_user") and any(m["role"] == "system" for m in messages[1:]):
            return False
        return not any(message.get(key) for message in messages for key in extra)

    def jinja(self) -> str:
        """The template as Jinja, for ``tokenizer.chat_template`` and a GGUF."""
        from whet.text.jinja import to_jinja

        return to_jinja(self)

    def go(self) -> str:
        """The template as Go text/template, for the TEMPLATE of an Ollama Modelfile.

        Raises:
            ExportError: a template that trims; Go templates cannot. ``no_go`` tells before.
        """
        from whet.text.gotemplate import to_go

        return to_go(self)

    @property
    def no_go(self) -> str:
        """Why there is no Go form; "" where there is one."""
        from whet.text.reasons import TRIMS

        return TRIMS if self.trim or self.trims("system") else ""

    def trims(self, role: str) -> bool:
        """Whether a message of this role is written without the white space around it."""
        return self.trim if role != "system" or self.trim_system is None else self.trim_system

    def _in_order(self, messages: Messages, contents: list[str]) -> Iterator[Segment]:
        folded: list[Segment] = []
        if self.system is not None and self.default_system is not None and not self._given(messages[:1], contents):
            folded = list(_around(self.system, self.default_system, -1))
            if self.system_place != "first_user":
                yield from folded
        for i, (message, content) in enumerate(zip(messages, contents, strict=True)):
            turn = self._turn(message["role"], i)
            if message["role"] == "system" and not self._given([message], [content]):
                yield Segment(content, i, "content")
            elif self.system_place != "first_user" or message["role"] == "assistant":
                yield from _around(turn, content, i)
            elif message["role"] == "system":
                folded = list(_around(turn, content, i))
            else:
                before, *rest = _around(turn, content, i)
                yield from (before, *folded, *rest)
                folded = []
        if any(segment.message >= 0 for segment in folded):
            raise DataError(
                "a system message without a user message after it",
                "a user message: this template writes the system's text inside the first one",
            )

    def _each_turn(self, messages: Messages, contents: list[str]) -> Iterator[Segment]:
        system = list(self._gathered(messages, contents))
        for i, (message, content) in enumerate(zip(messages, contents, strict=True)):
            turn = self._turn(message["role"], i)
            if message["role"] == "user":
                yield from system
            if message["role"] != "system":
                yield from _around(turn, content, i)

    def _gathered(self, messages: Messages, contents: list[str]) -> Iterator[Segment]:
        """All system texts, joined by an empty line, or the default one."""
        given = self._given(messages, contents)
        if self.system is None or (not given and self.default_system is None):
            return
        first, last = (given[0], given[-1]) if given else (-1, -1)
        yield Segment(self.system.before, first, "before")
        if not given:
            yield Segment(self.default_system or "", -1, "content")
        for i in given:
            if i != first:
                yield Segment("\n\n", i, "before")
            yield Segment(contents[i], i, "content")
        yield Segment(self.system.after, last, "after")

    def _given(self, messages: Messages, contents: Sequence[str]) -> list[int]:
        """Which messages are system messages that count."""
        return [
            i
            for i, message in enumerate(messages)
            if message["role"] == "system" and (contents[i] or not self.skip_empty_system)
        ]

    def _turn(self, role: str, i: int) -> Turn:
        turn = {"system": self.system, "user": self.user, "assistant": self.assistant}.get(role)
        if turn is None:
            places = "system, user, assistant" if self.system else "user, assistant"
            raise DataError(f"a message with the role {role!r}", f"the roles of this template: {places}")
        if role == "system" and i > 0:
            if self.system_place in ("start", "first_user"):
                raise DataError(
                    f"a system message after the beginning (message {i + 1})",
                    "this template has a place for one as the first message only",
                )
            return self.later_system or turn
        return turn

    def _content(self, message: Mapping[str, Any], i: int) -> str:
        content = message.get("content")
        if not isinstance(content, str):
            raise DataError(f"message {i + 1} has the content {content!r}", "text: this template writes nothing else")
        if message.get("tool_calls"):
            raise DataError(f"message {i + 1} calls a tool", "a template with a place for tool calls")
        return content.strip() if self.trims(str(message.get("role"))) else content


def _around(turn: Turn, content: str, message: int) -> tuple[Segment, Segment, Segment]:
    return (
        Segment(turn.before, message, "before"),
        Segment(content, message, "content"),
        Segment(turn.after, message, "after"),
    )


def bundled(name: str, tokenizer: Any = None) -> TurnTemplate:
    """A template that comes with whet, by name or alias.

    Args:
        tokenizer: its bos and end token are written; None writes those of the format's own models.

    Raises:
        DataError: an unknown name (the message has the nearest one), or a template that is more than pieces
            (``whet.text.chat.bundled_chat_template`` has it).
    """
    from whet.text.chat import bundled_pieces

    return bundled_pieces(name, tokenizer)


def from_jinja(tokenizer: Any) -> TurnTemplate | None:
    """The tokenizer's own chat template as pieces, proved on probe conversations; None when it is not of this kind."""
    from whet.text.derive import derive

    return derive(tokenizer)[0]
