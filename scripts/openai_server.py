"""A `whet serve` of its own for each use, and the official `openai` client for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

START_SECONDS = 120.0
ASKED: Any = [{"role": "user", "content": "How many singers are there?"}]


@dataclass(frozen=True)
class Server:
    """A running server and its client; the client repeats nothing, so that every refusal is seen."""

    address: str
    process: subprocess.Popen[str]
    client: openai.OpenAI
    model: str

    def chat(self, **options: Any) -> Any:
        """A chat completion at temperature 0, of few tokens, unless asked otherwise."""
        given = {"model": self.model, "messages": ASKED, "max_tokens": 16, "temperature": 0, **options}
        return self.client.chat.completions.create(**given)

    def text(self, **options: Any) -> Any:
        """The same for a text completion."""
        given = {"model": self.model, "prompt": "SELECT", "max_tokens": 16, "temperature": 0, **options}
        return self.client.completions.create(**given)

    def raw(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a request that the client would not send."""
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        with contextlib.closing(connection):
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            said = response.read()
        return response.status, json.loads(said) if said.startswith(b"{") else {}

    def health(self) -> dict[str, Any]:
        """What /health says."""
        return self.raw("GET", "/health")[1]


@contextlib.contextmanager
def serving(path: str, *options: str, key: str = "none") -> Iterator[Server]:
    """`whet serve PATH OPTIONS` on a free port, until the block ends."""
    free = () if "--port" in options else ("--port", "0")
    command = [sys.executable, "-m", "whet.cli.main", "serve", path, *free, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield _started(process, key)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            if process.stderr is not None:
                process.stderr.close()


def _started(process: subprocess.Popen[str], key: str) -> Server:
    said: list[str] = []
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        line = process.stderr.readline() if process.stderr is not None else ""
        if not line:
            raise SystemExit(f"the server ended at once: {''.join(said)}")
        said.append(line)
        found = re.match(r"note: (\S+) answers at (http://\S+)/v1 ", line)
        if found:
            client = openai.OpenAI(base_url=found[2] + "/v1", api_key=key, max_retries=0, timeout=60)
            return Server(found[2], process, client, found[1])
    raise SystemExit(f"the server did not answer in time: {''.join(said)}")


def refused(kind: type[openai.APIStatusError], ask: Callable[[], Any]) -> openai.APIStatusError:
    """The error that a call must end with; its body has OpenAI's fields."""
    try:
        ask()
    except kind as error:
        body: Any = error.response.json()["error"]
        assert set(body) == {"message", "type", "param", "code"} and body["message"], body
        return error
    raise AssertionError(f"no {kind.__name__}")


def streamed(chunks: Any) -> tuple[str, str | None, list[Any]]:
    """Text, reason of the end, and all chunks of a chat stream."""
    every = list(chunks)
    choices = [chunk.choices[0] for chunk in every if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    return text, choices[-1].finish_reason, every


def until_idle(server: Server, seconds: float = 30.0) -> float:
    """Seconds until no slot works and nobody waits."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        found = server.health()
        if found["busy"] == found["waiting"] == 0:
            return time.monotonic() - started
        time.sleep(0.05)
    raise AssertionError(f"still busy: {found}")
