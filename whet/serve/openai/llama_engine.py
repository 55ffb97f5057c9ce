"""Jobs answered by llama.cpp's own server in this process: slots, batching, sampling and grammars are its work.

A conversation is written by llama.cpp with the template in the GGUF (``/apply-template``) and continued as it is
(``/completion``), so the answer's text is exactly what the model said. An answer that must be JSON goes through
``/v1/chat/completions``: there llama.cpp refuses a schema that it cannot read. At ``/completion`` its builds with
llguidance would go on without any grammar.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import aiohttp

from whet.llamacpp import LlamaServer
from whet.serve.openai.jobs import Done, Job, Piece, Refused, Token
from whet.serve.sampling import sampling_body

PARSER_FAILED = "Unable to generate parser for this template. Automatic parser generation failed: "
PROBE_SECONDS = 5.0  # for an answer that costs nothing
AHEAD = 2  # jobs that wait in llama.cpp itself, so that a slot is never idle; each holds a thread there
LINE_BYTES = 2**20  # of one event: twenty alternatives of a token are a few kilobytes


Events = AsyncGenerator[dict[str, Any], None]
Answer = AsyncGenerator[Piece | Done, None]


class LlamaEngine:
    """A GGUF in llama.cpp.

    Args:
        context: tokens of each slot.
        has_template: whether the file holds a chat template; without one llama.cpp would write ChatML.
    """

    def __init__(self, server: LlamaServer, context: int, has_template: bool, slots: int) -> None:
        self.context, self.has_template, self.slots = context, has_template, slots
        self._server = server
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(slots + AHEAD)

    async def run(self, job: Job) -> Answer:
        async with self._places:
            events, read = await self._begun(job)
            async with contextlib.aclosing(events), contextlib.aclosing(read(events, job)) as answer:
                async for item in answer:
                    yield item

    async def _begun(self, job: Job) -> tuple[Events, Callable[[Events, Job], Answer]]:
        """The stream of events of a job, and what reads it."""
        if job.response_format is not None:
            body = _asked(job, "max_tokens") | {
                "messages": job.prompt,
                "response_format": job.response_format,
                "stream_options": {"include_usage": True},
            }
            if job.top_logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": max(job.top_logprobs, 1)}
            return self._events("/v1/chat/completions", body), _read_chat
        body = _asked(job, "n_predict") | {"prompt": await self._prompt(job)}
        if job.top_logprobs is not None:
            body["n_probs"] = max(job.top_logprobs, 1)
        return self._events("/completion", body), _read_plain

    async def busy(self) -> int | None:
        try:
            async with self._open().get(self._server.address + "/slots", timeout=_seconds(PROBE_SECONDS)) as response:
                return sum(slot["is_processing"] for slot in await response.json()) if response.ok else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        await asyncio.to_thread(self._server.close)

    async def _prompt(self, job: Job) -> str | list[int]:
        if not job.is_chat:
            return job.prompt  # type: ignore[return-value]
        place = self._server.address + "/apply-template"
        async with self._open().post(place, json={"messages": job.prompt}) as response:
            if response.status != 200:
                raise _refusal(response.status, await response.text(), "messages")
            return (await response.json())["prompt"]

    async def _events(self, place: str, body: dict[str, Any]) -> Events:
        """The events of a stream; closing it closes the connection, and llama.cpp frees the slot."""
        try:
            async with self._open().post(self._server.address + place, json=body | {"stream": True}) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.text(), None)
                async for line in response.content:
                    text = line.strip()
                    if text.startswith(b"data: ") and text != b"data: [DONE]":
                        event = json.loads(text.removeprefix(b"data: "))
                        if "error" in event:
                            raise _refusal(500, json.dumps(event), None)
                        yield event
        except aiohttp.ClientError as error:
            raise Refused(f"llama.cpp broke off: {type(error).__name__}", status=502) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # made here: a session belongs to the loop that it is made in
            self._session = aiohttp.ClientSession(
                headers=self._server.authorization,
                timeout=_seconds(None),  # the front sets the limit of a request
                # A connection is used once: llama.cpp closes idle ones just when they may be taken again.
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                read_bufsize=LINE_BYTES,
            )
        return self._session


def _seconds(total: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total)


def _asked(job: Job, length: str) -> dict[str, Any]:
    return sampling_body(job.sampling) | {length: job.max_tokens, "stop": list(job.stops), "cache_prompt": True}


async def _read_plain(events: Events, job: Job) -> Answer:
    async for event in events:
        tokens = [_token(entry, job.top_logprobs) for entry in event.get("completion_probabilities") or ()]
        if event.get("content") or tokens:
            yield Piece(event.get("content") or "", tokens)
        if event.get("stop"):
            finish = "length" if event.get("stop_type") == "limit" else "stop"
            yield Done(finish, int(event["tokens_evaluated"]), int(event["tokens_predicted"]))


async def _read_chat(events: Events, job: Job) -> Answer:
    finish, usage = "length", {"prompt_tokens": 0, "completion_tokens": 0}
    async for event in events:
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            finish = choice.get("finish_reason") or finish
            probabilities = (choice.get("logprobs") or {}).get("content") or ()
            tokens = [_token(entry, job.top_logprobs) for entry in probabilities]
            text = choice["delta"].get("content") or ""
            if text or tokens:
                yield Piece(text, tokens)
    yield Done(finish, usage["prompt_tokens"], usage["completion_tokens"])


def _token(entry: Mapping[str, Any], alternatives: int | None) -> Token:
    top = [_token(other, 0) for other in entry.get("top_logprobs", ())[: alternatives or 0]]
    return Token(entry["token"], entry.get("bytes") or [], entry["logprob"], top)


def _refusal(status: int, said: str, param: str | None) -> Refused:
    try:
        error = json.loads(said)["error"]
        message, kind = str(error["message"]), error.get("type")
    except (ValueError, KeyError, TypeError):
        message, kind = said[:500], None
    if kind == "exceed_context_size_error":
        text = (
            f"the prompt has {error['n_prompt_tokens']:,} tokens; this server reads {error['n_ctx']:,} with the answer"
        )
        return Refused(text, code="context_length_exceeded", param=param)
    # A template or a schema that refuses its input is the client's error, whatever llama.cpp calls it.
    message = message.removeprefix(PARSER_FAILED).split("\n")[0]
    return Refused(message, status=400 if status in (400, 500) else 502, param=param)
