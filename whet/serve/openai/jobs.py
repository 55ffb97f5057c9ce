"""What the front asks of an engine: one answer to one prompt, in pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from whet.errors import WhetError
from whet.serve.sampling import Sampling


class Refused(WhetError):
    """A request that cannot be answered, as the client sees it.

    Args:
        status: of HTTP.
        code: OpenAI's word for the kind of error, where it has one.
        param: the field of the request that is wrong.
        retry_after: seconds after which the client may ask again.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after


@dataclass(frozen=True)
class Job:
    """One answer.

    Args:
        prompt: the messages of a conversation, a text, or token ids.
        max_tokens: the longest answer.
        stops: texts that end it; they are no part of it.
        top_logprobs: how many alternatives to tell at each token; None tells no log-probabilities at all.
        response_format: OpenAI's field, where the answer must be JSON.
    """

    prompt: list[dict[str, str]] | str | list[int]
    max_tokens: int
    sampling: Sampling
    stops: Sequence[str] = ()
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a conversation."""
        return isinstance(self.prompt, list) and bool(self.prompt) and isinstance(self.prompt[0], dict)


@dataclass(frozen=True)
class Token:
    """A token of the answer with its log-probability (natural logarithm, before any sampling setting)."""

    text: str
    bytes: list[int]
    logprob: float
    top: list[Token] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """More of the answer."""

    text: str
    tokens: list[Token] = field(default_factory=list)


@dataclass(frozen=True)
class Done:
    """The end: ``finish`` is "stop" (an end token or a stop text) or "length"."""

    finish: str
    prompt_tokens: int
    completion_tokens: int


class Engine(Protocol):
    """A loaded model that answers jobs.

    Attributes:
        context: tokens of one conversation, answer included.
        has_template: whether it can write a conversation.
        slots: jobs that it works on at the same time.
    """

    context: int
    has_template: bool
    slots: int

    def run(self, job: Job) -> AsyncGenerator[Piece | Done, None]:
        """Pieces, then one ``Done``. Closing the iterator stops the work.

        Raises:
            Refused: before the first piece, where the model cannot take the job.
        """

    async def busy(self) -> int | None:
        """How many slots are at work; None where the model does not answer."""

    async def close(self) -> None:
        """Give everything back."""
