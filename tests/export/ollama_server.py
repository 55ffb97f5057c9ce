"""A server that speaks the part of Ollama's protocol that creates a model, and checks all that it is sent.

Replies and refusals follow Ollama's server/create.go and server/routes.go. It runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = "0.99.0"
DIGEST = re.compile(r"/api/blobs/(sha256:[0-9a-f]{64})")
FIELDS = {"model", "from", "files", "adapters", "template", "system", "license", "parameters", "messages"} | {
    *("requires", "renderer", "parser", "stream")
}


@dataclass
class Ollama:
    """What the server holds and saw, and how it is to fail.

    Attributes:
        blobs: digest -> bytes, as they arrived.
        models: name -> the body that created it.
        calls: method and path of each request, in order.
        drop_upload_after: hang up after this many bytes of a blob.
        refuse_upload: answer with this status and error before the blob has been read.
        die_in_create: hang up after the first line of progress.
        create_lines: what is sent instead of the usual progress.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)
    drop_upload_after: int | None = None
    refuse_upload: tuple[int, str] | None = None
    die_in_create: bool = False
    create_lines: list[bytes] | None = None
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Ollama

    def do_GET(self) -> None:
        self.state.calls.append(("GET", self.path))
        self._json(200, {"version": VERSION}) if self.path == "/api/version" else self._json(404, {"error": "?"})

    def do_HEAD(self) -> None:
        self.state.calls.append(("HEAD", self.path))
        found = DIGEST.fullmatch(self.path)
        self._reply(400 if found is None else 200 if found[1] in self.state.blobs else 404, b"")

    def do_POST(self) -> None:
        self.state.calls.append(("POST", self.path))
        found = DIGEST.fullmatch(self.path)
        if found:
            self._blob(found[1])
        elif self.path == "/api/create":
            self._create(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        else:
            self._json(404, {"error": "404 page not found"})

    def _blob(self, digest: str) -> None:
        if self.state.refuse_upload is not None:
            self.close_connection = True
            self._json(self.state.refuse_upload[0], {"error": self.state.refuse_upload[1]})
            return
        left, body = int(self.headers["Content-Length"]), bytearray()
        while left:
            piece = self.rfile.read1(min(left, 2**20))
            if not piece:
                return
            body += piece
            left -= len(piece)
            if self.state.drop_upload_after is not None and len(body) >= self.state.drop_upload_after:
                self.close_connection = True
                return
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
            self._json(400, {"error": f'digest mismatch, expected "{digest}"'})
            return
        self.state.blobs[digest] = bytes(body)
        self._reply(201, b"")

    def _create(self, body: dict[str, Any]) -> None:
        problem = _problem(self.state, body)
        if problem:
            self._json(400, {"error": problem})
            return
        lines = [json.dumps({"status": status}).encode() for status in _progress(body)]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, line in enumerate(lines if self.state.create_lines is None else self.state.create_lines):
            if self.state.die_in_create and number == 1:
                self.close_connection = True
                return
            if self.state.create_lines is None and number == len(lines) - 1:
                self.state.models[body["model"]] = body  # there before "success" is said, as in Ollama
            self.wfile.write(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, status: int, answer: dict[str, Any]) -> None:
        self._reply(status, json.dumps(answer).encode())

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _handler(state: Ollama) -> type[Handler]:
    return type("Bound", (Handler,), {"state": state})


def _problem(state: Ollama, body: dict[str, Any]) -> str:
    """Why the request would be refused, as Ollama words it."""
    if set(body) - FIELDS:
        return f"unknown fields {sorted(set(body) - FIELDS)}"
    if not re.fullmatch(r"([\w.\-]+/)?[\w.\-]+(:[\w.\-]+)?", body.get("model", "")):
        return "invalid model name"
    if not body.get("files") and not body.get("from"):
        return "neither 'from' or 'files' was specified"
    for name, digest in {**body.get("files", {}), **body.get("adapters", {})}.items():
        if re.search(r"[\\:]|^/|\.\.", name):
            return f"file path must be relative: {name}"
        if digest not in state.blobs:
            return f"blob not found for {name} (digest {digest})"
        if not state.blobs[digest].startswith(b"GGUF"):
            return "supplied file was not in GGUF format"
    return ""


def _progress(body: dict[str, Any]) -> list[str]:
    layers = ["creating new layer" for part in ("template", "system", "license", "parameters") if part in body]
    return ["parsing GGUF", *layers, "writing manifest", "success"]


@contextmanager
def running_ollama(**faults: Any) -> Iterator[Ollama]:
    """The server on a free port of this machine, until the block ends."""
    state = Ollama(**faults)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
