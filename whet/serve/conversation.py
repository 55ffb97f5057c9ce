"""A conversation with a model: its turns, and what is left out when they no longer fit."""

from __future__ import annotations

import time
from dataclasses import dataclass

from whet.console import notice
from whet.errors import DataError, ModelError, WhetError
from whet.serve.backends import Backend, Emit, Prompt
from whet.serve.sampling import Sampling


class Conversation:
    """The turns so far, and how to answer.

    Args:
        system: the system message; it is never left out.
        max_tokens: the longest answer.
        sampling: how tokens are drawn.

    Attributes:
        turns: the messages so far, without the system message.
        speed: of the last answer; None before the first one.

    Raises:
        ModelError: a system message for a model without a chat template.
    """

    def __init__(self, backend: Backend, system: str | None, max_tokens: int, sampling: Sampling) -> None:
        self.backend, self.max_tokens, self.sampling = backend, max_tokens, sampling
        self.speed: Speed | None = None
        self._asked: str | None = None
        self.turns: list[dict[str, str]] = []
        self.system: str | None = None
        self.set_system(system)
        if not backend.has_template:
            notice("the model has no chat template: your text is given as it is, and each message stands alone")

    def set_system(self, text: str | None) -> None:
        """Set the system message; None or an empty text removes it."""
        if text and not self.backend.has_template:
            raise ModelError("a system message", "a model with a chat template", "put it into the prompt")
        self.system = text or None

    def reset(self) -> None:
        """Forget the turns; the system message stays."""
        self.turns.clear()
        self._asked = None

    def ask(self, text: str, emit: Emit) -> str:
        """Answer ``text``; the answer goes to ``emit`` in pieces and is returned whole.

        Ctrl-C (``KeyboardInterrupt``) passes; what was said until then stays in the conversation.

        Raises:
            DataError: the message alone is longer than the model's context.
        """
        said: list[str] = []
        clock = _Clock()

        def hear(piece: str) -> None:
            clock.hear()
            said.append(piece)
            emit(piece)

        self._asked = text
        self.turns.append({"role": "user", "content": text})
        try:
            prompt, room = self._prompt()
            clock.start()
            made = self.backend.stream(prompt, room, self.sampling, hear)
            self.speed = clock.speed(made)
        except WhetError:
            said.clear()
            raise
        finally:
            self._remember("".join(said))
        return "".join(said)

    def again(self, emit: Emit) -> str:
        """Answer the last question anew; the new answer takes the place of the old one.

        Raises:
            DataError: there was none.
        """
        if self._asked is None:
            raise DataError("there is no question yet", "a message before /regen")
        before = list(self.turns)
        if self.turns and self.turns[-1]["role"] == "assistant":
            del self.turns[-2:]
        try:
            return self.ask(self._asked, emit)
        except WhetError:
            self.turns = before
            raise

    def messages(self, text: str | None) -> list[dict[str, str]]:
        """The conversation with ``text`` as its next question; None: up to the last question that was asked.

        Raises:
            DataError: there was none.
        """
        if text is None and self._asked is None:
            raise DataError("there is no question yet", "a text after the command, or a message before it")
        turns = self.turns
        if text is None and turns and turns[-1]["role"] == "assistant":
            turns = turns[:-2]
        asked = text if text is not None else self._asked or ""
        return [*self._system(), *turns, {"role": "user", "content": asked}]

    def _remember(self, answer: str) -> None:
        if answer and self.backend.has_template:
            self.turns.append({"role": "assistant", "content": answer})
        else:
            self.turns.pop()  # a question without an answer would leave two user turns in a row

    def _prompt(self) -> tuple[Prompt, int]:
        """The ids of the prompt, and how many tokens the answer may take. Forgets the oldest turns where it must."""
        context = self.backend.context
        ids = self._ids()
        if context is None:
            return ids, self.max_tokens
        longest = context - min(self.max_tokens, context // 2)
        while len(ids) > longest and len(self.turns) > 1:
            del self.turns[:2]
            ids = self._ids()
            notice(
                f"the conversation is longer than the model reads ({context:,} tokens): the oldest turns are left out",
                key="chat: oldest turns left out",
            )
        if not ids or len(ids) >= context:
            given = f"the message has {len(ids):,} tokens" if ids else "the message is empty"
            raise DataError(given, f"1 to {context - 1:,}, since the model reads {context:,} with its answer")
        return ids, min(self.max_tokens, context - len(ids))

    def _ids(self) -> Prompt:
        return self.backend.prompt([*self._system(), *self.turns])

    def _system(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}] if self.system else []


@dataclass(frozen=True)
class Speed:
    """How fast an answer came.

    Args:
        tokens: that were made, an end token included.
        seconds: from the first piece to the end; the reading of the prompt is not in it.
        waited: seconds to the first piece.
    """

    tokens: int
    seconds: float
    waited: float

    def __str__(self) -> str:
        if self.tokens < 2 or self.seconds <= 0:
            return f"{self.tokens} tokens"
        return (
            f"{self.tokens:,} tokens, {(self.tokens - 1) / self.seconds:,.1f} tokens/s, first after {self.waited:.2f} s"
        )


class _Clock:
    """Times of one answer."""

    def __init__(self) -> None:
        self._start = self._first = 0.0

    def start(self) -> None:
        self._start = time.monotonic()

    def hear(self) -> None:
        self._first = self._first or time.monotonic()

    def speed(self, tokens: int) -> Speed:
        end = time.monotonic()
        first = self._first or end
        return Speed(tokens, end - first, first - self._start)
