"""``whet serve``: from a path to a server that runs until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from whet.console import notice
from whet.errors import WhetError
from whet.export.adapter import run_folder_of
from whet.export.gguf_header import read_header
from whet.llamacpp import LlamaServer
from whet.serve.backends import GGUF_CONTEXT, gguf_file, own_context
from whet.serve.openai.front import Front, Limits
from whet.serve.openai.guard import is_loopback
from whet.serve.openai.jobs import Engine

BACKENDS = ("llama.cpp", "torch")
HOST, PORT = "127.0.0.1", 8080
PARALLEL = 4  # conversations at the same time
WAITING = 64  # answers that wait for one of them to end
SECONDS = 600.0  # of one request
BODY_MB = 4.0
DRAIN_SECONDS = 30.0  # that running requests have after a signal
PROMPT_CACHE_MIB = 1024  # llama.cpp would take eight times as much
MB = 10**6


@dataclass(frozen=True)
class Loaded:
    """A model that is ready, and texts of its template that end an answer."""

    engine: Engine
    stops: tuple[str, ...] = ()


def serve(
    path: Path | str,
    *,
    host: str = HOST,
    port: int = PORT,
    api_key: str | None = None,
    backend: str = BACKENDS[0],
    name: str | None = None,
    parallel: int = PARALLEL,
    context: int | None = None,
    max_tokens: int | None = None,
    waiting: int = WAITING,
    seconds: float = SECONDS,
    body_mb: float = BODY_MB,
    threads: int | None = None,
    cache: Path | str | None = None,
    log: bool = False,
) -> None:
    """Serve a model over OpenAI's HTTP API until SIGTERM or Ctrl-C; running requests are answered before it ends.

    Args:
        path: a run, adapter or checkpoint folder, a GGUF file, a hub name, or "starter".
        host: an address of this machine. Any but a loopback address needs a key.
        port: 0 takes a free one, which is said.
        api_key: what clients have to send.
        backend: ``llama.cpp`` (anything but a GGUF is exported to one, once) or ``torch`` (one request at a time).
        name: of the model in the API; None: that of the folder or file.
        parallel: conversations at the same time, each with its own context.
        context: tokens of each, answer included; None: what the model can, at most 8,192.
        max_tokens: the longest answer; None: the context.
        waiting: answers that may wait for a free place; more are refused.
        seconds: a request that takes longer is ended with an error.
        body_mb: the largest request, in MB.
        threads: CPU threads of llama.cpp; None leaves the choice to it.
        cache: where exported GGUF files are kept; None: the user's cache folder.
        log: one line on stderr for each request, without what was asked or said.

    Raises:
        WhetError: no key for an open address, a port that is taken, no model there.
        MissingDependency: llama.cpp is not installed.
    """
    _check(host, api_key, backend)
    with contextlib.closing(
        _listen(host, port)
    ) as listener:  # before the model is loaded: a taken port is said at once
        loaded = _load(path, backend, parallel, context, threads, Path(cache) if cache is not None else None)
        engine = loaded.engine
        limits = Limits(min(max_tokens or engine.context, engine.context), int(body_mb * MB), waiting, seconds)
        front = Front(engine, name or model_name(path), limits, loaded.stops)
        asyncio.run(_serve(front, front.app(api_key, log), listener))


def model_name(path: Path | str) -> str:
    """The name that a model has in the API: its run's, else its folder's or file's."""
    run = run_folder_of(path)
    given = Path(path).expanduser()
    if run is not None:
        return run.name
    return given.stem if given.suffix.lower() == ".gguf" else given.resolve().name if given.exists() else str(path)


def _check(host: str, api_key: str | None, backend: str) -> None:
    if backend not in BACKENDS:
        raise WhetError(f"--backend {backend}", f"one of {', '.join(BACKENDS)}")
    if api_key is not None and (not api_key.strip() or not api_key.isascii()):
        raise WhetError("an API key that is empty or not ASCII", "letters, digits and signs")
    if api_key is None and not is_loopback(host):
        raise WhetError(
            f"--host {host} opens the server to other machines, and there is no key",
            "an API key for any address but this machine's own",
            "--api-key-file FILE (or --api-key KEY), or leave --host out",
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # a server that was killed leaves connections behind that would hold the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise WhetError(f"cannot listen at {host} port {port}: {error}", fix="name another --port or --host") from error
    return listener


def _load(
    path: Path | str, backend: str, parallel: int, context: int | None, threads: int | None, cache: Path | None
) -> Loaded:
    file = gguf_file(Path(path).expanduser())
    if backend == "torch":
        if file is not None:
            raise WhetError(
                f"--backend torch with {file}", "a run, adapter or checkpoint folder", "leave --backend out"
            )
        from whet.models.load import load_for_inference
        from whet.serve.backends import TorchBackend
        from whet.serve.openai.torch_engine import TorchEngine

        return Loaded(TorchEngine(TorchBackend(*load_for_inference(str(path)))))
    from whet.serve.openai.llama_engine import LlamaEngine

    stops: tuple[str, ...] = ()
    if file is None:
        from whet.serve.cached import exported

        served = exported(path, cache)
        file, stops = served.file, served.stops
    header = read_header(file)
    longest = own_context(header)
    room = min(context or GGUF_CONTEXT, longest)
    server = LlamaServer(file, n_ctx=room, threads=threads, n_parallel=parallel, prompt_cache_mib=PROMPT_CACHE_MIB)
    return Loaded(LlamaEngine(server, room, "tokenizer.chat_template" in header, parallel), stops)


async def _serve(front: Front, app: web.Application, listener: socket.socket) -> None:
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=DRAIN_SECONDS, access_log=None, handle_signals=False
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        host, port = listener.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        room = f"{front.engine.slots} at a time, {front.engine.context:,} tokens each"
        notice(f"{front.name} answers at {address}/v1 ({room}); chat page: {address}/ ; Ctrl-C stops it")
        await _told_to_end()
        if front.running:
            notice(f"ending: {front.running} answers are finished first, for at most {DRAIN_SECONDS:.0f} s")
    finally:
        await runner.cleanup()
        await front.engine.close()


async def _told_to_end() -> None:
    """Until SIGTERM or Ctrl-C. A second one ends the process at once."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told(number: int, frame: Any) -> None:
        if ended.is_set():
            os._exit(128 + number)
        loop.call_soon_threadsafe(ended.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)
    await ended.wait()
