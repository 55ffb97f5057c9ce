"""The HTTP front: OpenAI's endpoints over an engine, with limits on size, length, number and time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from aiohttp import web

from whet.serve.openai import guard
from whet.serve.openai.jobs import Done, Engine, Job, Piece, Refused
from whet.serve.openai.request import ChatRequest, TextRequest, jobs_of, parse_request
from whet.serve.openai.shape import Answer, Shape, error_body

BODY_SECONDS = 30.0  # to receive a request whole
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PAGE_RULES = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the server.

    Args:
        tokens: the longest answer.
        body: bytes of a request.
        waiting: answers that may wait for a free slot; more are refused with 503.
        seconds: of a request, from its body to its last byte; waiting counts.
    """

    tokens: int
    body: int
    waiting: int
    seconds: float


class Front:
    """The handlers.

    Args:
        stops: texts of the model's own chat template that end an answer.
    """

    def __init__(self, engine: Engine, name: str, limits: Limits, stops: Sequence[str] = ()) -> None:
        self.engine, self.name, self.limits, self.stops = engine, name, limits, stops
        self.running = 0  # answers that are being made or wait for it
        self._created = int(time.time())

    def app(self, api_key: str | None, log: bool = False) -> web.Application:
        """The application, for ``aiohttp.web.AppRunner`` (with ``handler_cancellation=True``)."""
        logs = [guard.log_requests()] if log else []
        middlewares: Any = [*logs, guard.clean_errors(), guard.check_caller(api_key)]
        app = web.Application(client_max_size=self.limits.body, middlewares=middlewares)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.text)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{name:.+}", self.model)
        app.router.add_get("/health", self.health)
        for path in PAGE:
            app.router.add_get(path, self.page)
        return app

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models"""
        return web.json_response({"object": "list", "data": [self._card()]})

    async def model(self, request: web.Request) -> web.Response:
        """GET /v1/models/NAME"""
        self._check_name(request.match_info["name"])
        return web.json_response(self._card())

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: 200 while the model answers, with its slots and how many of them work."""
        busy = await self.engine.busy()
        if busy is None:
            raise Refused("the model does not answer", status=503)
        waiting = max(self.running - busy, 0)
        return web.json_response({"status": "ok", "slots": self.engine.slots, "busy": busy, "waiting": waiting})

    async def page(self, request: web.Request) -> web.Response:
        """The chat page and its two files."""
        name, kind = PAGE[request.path]
        text = resources.files("whet.serve").joinpath("page", name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=kind, headers=PAGE_RULES)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions"""
        if not self.engine.has_template:
            raise Refused("the model has no chat template: use /v1/completions", code="no_chat_template")
        return await self._answer(request, ChatRequest)

    async def text(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions"""
        return await self._answer(request, TextRequest)

    def _card(self) -> dict[str, Any]:
        own = {"context": self.engine.context, "chat": self.engine.has_template, "max_tokens": self.limits.tokens}
        return {"id": self.name, "object": "model", "created": self._created, "owned_by": "whet"} | own

    def _check_name(self, asked: str | None) -> None:
        if asked not in (None, self.name):
            raise Refused(
                f"there is no model {asked!r} here; this server has {self.name!r}",
                status=404,
                code="model_not_found",
                param="model",
            )

    async def _answer(self, http: web.Request, kind: type[ChatRequest] | type[TextRequest]) -> web.StreamResponse:
        request = parse_request(kind, await self._body(http))
        self._check_name(request.model)
        jobs = jobs_of(request, self.limits.tokens, self.stops)
        shape = Shape(self.name, kind is ChatRequest, jobs[0].top_logprobs is not None, request.n or 1)
        if self.running + len(jobs) > self.engine.slots + self.limits.waiting:
            raise Refused("the server is busy: too many requests wait", status=503, code="overloaded", retry_after=1)
        self.running += len(jobs)
        try:
            if request.stream:
                usage = bool(request.stream_options and request.stream_options.include_usage)
                return await self._streamed(http, jobs, shape, usage)
            return await self._whole(jobs, shape)
        finally:
            self.running -= len(jobs)

    async def _body(self, http: web.Request) -> bytes:
        if http.content_type != "application/json":  # what a page of another site can send unasked is not this type
            raise Refused(f"Content-Type {http.content_type}; application/json is expected", status=415)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await http.read()
        except TimeoutError:
            raise Refused(f"the body did not come within {BODY_SECONDS:.0f} s", status=408) from None

    async def _whole(self, jobs: Sequence[Job], shape: Shape) -> web.Response:
        answers = [Answer() for _ in jobs]
        try:
            async with asyncio.timeout(self.limits.seconds), contextlib.aclosing(merged(self.engine, jobs)) as items:
                async for index, item in items:
                    answers[index].add(item)
        except TimeoutError:
            raise self._too_late() from None
        return web.json_response(shape.whole(answers))

    async def _streamed(self, http: web.Request, jobs: Sequence[Job], shape: Shape, usage: bool) -> web.StreamResponse:
        """Server-sent events. Nothing is sent before the engine has begun, so that a refusal has its own status."""
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        ended: list[Done | None] = [None] * len(jobs)
        try:
            async with asyncio.timeout(self.limits.seconds), contextlib.aclosing(merged(self.engine, jobs)) as items:
                async for index, item in items:
                    if not response.prepared:
                        await response.prepare(http)
                        for opened in range(len(jobs)):
                            await _send(response, shape.first(opened))
                    if isinstance(item, Done):
                        ended[index] = item
                        await _send(response, shape.last(index, item))
                    else:
                        await _send(response, shape.piece(index, item))
                if usage:
                    await _send(response, shape.usage_chunk(ended))
                await response.write(b"data: [DONE]\n\n")
                await response.write_eof()
        except TimeoutError:
            return await self._broken(http, response, self._too_late())
        except Refused as refused:
            return await self._broken(http, response, refused)
        except ConnectionError:  # the client has gone
            return response
        return response

    async def _broken(self, http: web.Request, response: web.StreamResponse, refused: Refused) -> web.StreamResponse:
        """After the first event an error can only be an event itself."""
        if not response.prepared:
            raise refused
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1):  # a client that reads nothing is not waited for
                await _send(response, error_body(refused))
                await response.write_eof()
        if http.transport is not None:
            http.transport.abort()
        return response

    def _too_late(self) -> Refused:
        return Refused(f"the answer was not ready within {self.limits.seconds:g} s", status=504, code="request_timeout")


async def merged(engine: Engine, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, Piece | Done], None]:
    """The items of several jobs as they come, each with its job's number; an error of one ends all."""
    queue: asyncio.Queue[tuple[int, Piece | Done | Exception | None]] = asyncio.Queue(maxsize=64)

    async def feed(index: int) -> None:
        try:
            async with contextlib.aclosing(engine.run(jobs[index])) as items:
                async for item in items:
                    await queue.put((index, item))
        except Exception as error:
            await queue.put((index, error))
        else:
            await queue.put((index, None))

    tasks = [asyncio.create_task(feed(index)) for index in range(len(jobs))]
    left = len(tasks)
    try:
        while left:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(response: web.StreamResponse, event: dict[str, Any] | None) -> None:
    if event is not None:
        await response.write(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")
