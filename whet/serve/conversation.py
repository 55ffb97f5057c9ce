"""A conversation with a model: its turns, and what is left out when they no longer fit."""

from __future__ import annotations

from whet.console import notice
from whet.errors import DataError, ModelError, WhetError
from whet.serve.backends import Backend, Emit
from whet.serve.sampling import Sampling


class Conversation:
    """The turns so far, and how to answer.

    Args:
        system: the system message; it is never left out.
        max_tokens: the longest answer.
        temperature: 0 takes the most likely token always.

    Raises:
        ModelError: a system message for a model without a chat template.
    """

    def __init__(self, backend: Backend, system: str | None, max_tokens: int, temperature: float) -> None:
        self.backend, self.max_tokens, self.temperature = backend, max_tokens, temperature
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

    def ask(self, text: str, emit: Emit) -> str:
        """Answer ``text``; the answer goes to ``emit`` in pieces and is returned whole.

        Ctrl-C (``KeyboardInterrupt``) passes; what was said until then stays in the conversation.

        Raises:
            DataError: the message alone is longer than the model's context.
        """
        said: list[str] = []

        def hear(piece: str) -> None:
            said.append(piece)
            emit(piece)

        self.turns.append({"role": "user", "content": text})
        try:
            ids, room = self._prompt()
            self.backend.stream(ids, room, Sampling(temperature=self.temperature), hear)
        except WhetError:
            said.clear()
            raise
        finally:
            self._remember("".join(said))
        return "".join(said)

    def _remember(self, answer: str) -> None:
        if answer and self.backend.has_template:
            self.turns.append({"role": "assistant", "content": answer})
        else:
            self.turns.pop()  # a question without an answer would leave two user turns in a row

    def _prompt(self) -> tuple[list[int], int]:
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

    def _ids(self) -> list[int]:
        if not self.backend.has_template:
            return self.backend.text_ids(self.turns[-1]["content"])
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self.backend.chat_ids(system + self.turns)
