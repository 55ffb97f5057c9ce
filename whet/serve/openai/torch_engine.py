"""Jobs answered by the trained model itself in torch, one at a time: for models that llama.cpp cannot run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import torch

from whet.errors import WhetError
from whet.serve.backends import TorchBackend
from whet.serve.openai.jobs import Done, Job, Piece, Refused, Token
from whet.serve.pieces import TextPieces
from whet.serve.stops import StopFilter
from whet.serve.torch_tokens import Drawn, drawn_tokens

UNKNOWN_CONTEXT = 4096  # tokens, for a model that does not say how many it reads

Put = Callable[[Piece | Done | Exception], None]


class TorchEngine:
    """A transformers model; a second request waits until the first has ended."""

    slots = 1

    def __init__(self, backend: TorchBackend) -> None:
        self._backend = backend
        self.context = backend.context or UNKNOWN_CONTEXT
        self.has_template = backend.has_template
        self._turn = asyncio.Lock()

    async def run(self, job: Job) -> AsyncGenerator[Piece | Done, None]:
        if job.response_format is not None:
            raise Refused("JSON answers need llama.cpp: this server runs with --backend torch", param="response_format")
        ids = self._ids(job)
        room = self.context - len(ids)
        if not ids or room < 1:
            text = f"the prompt has {len(ids):,} tokens; this server reads {self.context:,} with the answer"
            raise Refused(text, code="context_length_exceeded")
        await self._turn.acquire()
        loop, queue, gone = asyncio.get_running_loop(), asyncio.Queue[Piece | Done | Exception](), threading.Event()

        def put(item: Piece | Done | Exception) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        work = asyncio.create_task(asyncio.to_thread(self._work, job, ids, min(room, job.max_tokens), put, gone))
        work.add_done_callback(lambda _: self._turn.release())  # the next job begins when the model is free
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Done):
                    break
        finally:
            gone.set()  # and no waiting: a long prompt that is being read must not hold up the client's error

    async def busy(self) -> int | None:
        return int(self._turn.locked())

    async def close(self) -> None:
        """Nothing to give back: the model goes with the process."""

    def _ids(self, job: Job) -> list[int]:
        vocabulary = self._backend.model.get_input_embeddings().weight.shape[0]
        prompt: Any = job.prompt
        try:
            if job.is_chat:
                return self._backend.chat_ids(prompt)
            ids = self._backend.text_ids(prompt) if isinstance(prompt, str) else list(prompt)
        except WhetError as error:
            raise Refused(error.given, param="messages") from error
        if any(not 0 <= token < vocabulary for token in ids):
            raise Refused(f"token ids are 0 to {vocabulary - 1:,}", param="prompt")
        return ids

    def _work(self, job: Job, ids: list[int], room: int, put: Put, gone: threading.Event) -> None:
        """In a thread of its own: every token until the end, or until nobody listens."""
        try:
            for item in self._items(job, ids, room):
                put(item)
                if gone.is_set():
                    return
        except Exception as error:
            put(error)

    def _items(self, job: Job, ids: list[int], room: int) -> Iterator[Piece | Done]:
        pieces, stops, made = TextPieces(self._backend.tokenizer), StopFilter(job.stops), 0
        waiting: list[Token] = []  # told with the text that they end up in
        ended = False
        for drawn in drawn_tokens(self._backend.model, ids, room, job.sampling):
            made += 1
            if drawn.id in self._backend.stops:
                ended = True
                break
            if job.top_logprobs is not None:
                waiting.append(self._token(drawn, job.top_logprobs))
            text = stops.push(pieces.push(drawn.id))
            if text:
                yield Piece(text, waiting)
                waiting = []
            if stops.stopped:
                break
        rest = stops.push(pieces.rest())
        if not stops.stopped:
            rest += stops.rest()
        if rest or (waiting and not stops.stopped):
            yield Piece(rest, waiting)
        yield Done("stop" if ended or stops.stopped else "length", len(ids), made)

    def _token(self, drawn: Drawn, alternatives: int) -> Token:
        logprobs_V = drawn.logprobs_V
        best = torch.topk(logprobs_V, alternatives) if alternatives else None
        top = [] if best is None else zip(best.indices.tolist(), best.values.tolist(), strict=True)
        written = [self._written(token, logprob) for token, logprob in top]
        plain = self._written(drawn.id, float(logprobs_V[drawn.id]))
        return Token(plain.text, plain.bytes, plain.logprob, written)

    def _written(self, token: int, logprob: float) -> Token:
        text = self._backend.tokenizer.decode([token])
        return Token(text, list(text.encode()), logprob)
