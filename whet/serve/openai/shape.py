"""Answers in OpenAI's shapes: whole objects and the chunks of a stream (their API reference)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.serve.openai.jobs import Done, Piece, Refused, Token

LEAST_LOGPROB = -9999.0  # what OpenAI writes for a token that cannot be

KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


@dataclass
class Answer:
    """One choice, while it grows."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    done: Done | None = None

    def add(self, item: Piece | Done) -> None:
        """Take the next piece or the end."""
        if isinstance(item, Done):
            self.done = item
        else:
            self.text += item.text
            self.tokens.extend(item.tokens)


class Shape:
    """The names of one response: its id, time and model stand in every chunk.

    Args:
        chat: chat completions; else text completions.
        logprobs: whether log-probabilities were asked for.
        per_prompt: answers to each prompt.
    """

    def __init__(self, model: str, chat: bool, logprobs: bool, per_prompt: int = 1) -> None:
        self.chat, self.logprobs, self._per_prompt = chat, logprobs, per_prompt
        self._offsets: dict[int, int] = {}
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            "object": kind,
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The response to a request without streaming."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return self._head | {"choices": choices, "usage": self.usage([answer.done for answer in answers])}

    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk that opens a choice: a chat says who speaks."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}) if self.chat else None

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """The chunk of a piece."""
        told = self._logprobs(index, piece.tokens) if self.logprobs else None
        inner: dict[str, Any] = {"delta": {"content": piece.text}} if self.chat else {"text": piece.text}
        return self._chunk(index, inner | {"logprobs": told})

    def last(self, index: int, done: Done) -> dict[str, Any]:
        """The chunk that says why a choice ended."""
        inner: dict[str, Any] = {"delta": {}} if self.chat else {"text": "", "logprobs": None}
        return self._chunk(index, inner, done.finish)

    def usage_chunk(self, done: Sequence[Done | None]) -> dict[str, Any]:
        """The chunk after the last one, for ``stream_options.include_usage``."""
        return self._stream_head() | {"choices": [], "usage": self.usage(done)}

    def usage(self, done: Sequence[Done | None]) -> dict[str, Any]:
        """Tokens in all: a prompt counts once, however many answers it got."""
        ended = [item for item in done if item is not None]
        prompt = sum(item.prompt_tokens for item in ended[:: self._per_prompt])
        made = sum(item.completion_tokens for item in ended)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        finish = answer.done.finish if answer.done is not None else None
        told = self._logprobs(index, answer.tokens) if self.logprobs else None
        inner: dict[str, Any] = {"text": answer.text}
        if self.chat:
            inner = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
        return {"index": index, "finish_reason": finish, "logprobs": told} | inner

    def _chunk(self, index: int, inner: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        return self._stream_head() | {"choices": [{"index": index, "finish_reason": finish, **inner}]}

    def _stream_head(self) -> dict[str, Any]:
        return self._head | ({"object": "chat.completion.chunk"} if self.chat else {})

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        if self.chat:
            return {"content": [_entry(token) for token in tokens], "refusal": None}
        offsets = []
        for token in tokens:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_least(token.logprob) for token in tokens],
            "top_logprobs": [{other.text: _least(other.logprob) for other in token.top} for token in tokens],
            "text_offset": offsets,
        }


def _entry(token: Token) -> dict[str, Any]:
    def plain(item: Token) -> dict[str, Any]:
        return {"token": item.text, "logprob": _least(item.logprob), "bytes": item.bytes}

    return plain(token) | {"top_logprobs": [plain(other) for other in token.top]}


def _least(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def error_body(refused: Refused) -> dict[str, Any]:
    """OpenAI's form of an error."""
    kind = KINDS.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
    return {"error": {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}}
