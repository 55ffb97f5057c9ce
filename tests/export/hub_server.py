"""A server that speaks the calls of the Hugging Face hub by which a model is pushed, and checks every byte.

Calls: whoami, repo info, create, preupload, LFS batch, upload of a blob with its digest, commit (NDJSON). Which they
are is read from the hub's own client; this server keeps what it gets in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "SecretTokenOfThisTest" * 2
LARGE = (".safetensors", ".gguf")


@dataclass
class Repo:
    """One repository: its files by name, as bytes or as the digest of a blob."""

    private: bool
    files: dict[str, bytes | str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """What the server holds and saw, and how it is to fail.

    Attributes:
        blobs: digest -> bytes of large files.
        calls: method and path of each request, in order.
        uploads: digests in the order in which they arrived.
        refuse_uploads_after: so many blobs are taken; later ones get ``refusal``.
        admitted: uploads that were not refused.
        refusal: a status; 0 hangs up in the middle of the body.
        read_only: the token may not write.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    refuse_uploads_after: int | None = None
    refusal: int = 0
    admitted: int = 0
    read_only: bool = False
    url: str = ""
    lock: Any = field(default_factory=threading.Lock)

    def content(self, repo: str, name: str) -> bytes:
        """A file as somebody would download it."""
        found = self.repos[repo].files[name]
        return self.blobs[found] if isinstance(found, str) else found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._route([(r"/api/whoami-v2", self._whoami), (r"/api/models/([^?]+?)(?:/revision/main)?", self._info)])

    def do_POST(self) -> None:
        self._route(
            [
                (r"/api/repos/create", self._create),
                (r"/api/validate-yaml", self._validate),
                (r"/api/models/(.+)/preupload/main", self._preupload),
                (r"/(.+)\.git/info/lfs/objects/batch", self._batch),
                (r"/api/models/(.+)/commit/main", self._commit),
            ]
        )

    def do_PUT(self) -> None:
        self._route([(r"/blobs/([0-9a-f]{64})", self._blob)], signed=True)

    def _route(self, routes: list[tuple[str, Any]], signed: bool = False) -> None:
        path = self.path.partition("?")[0]
        with self.hub.lock:
            self.hub.calls.append((self.command, path))
        if not signed and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json(401, {"error": "Invalid credentials in Authorization header"})
            return
        for pattern, answer in routes:
            found = re.fullmatch(pattern, path)
            if found:
                answer(*found.groups())
                return
        self._json(404, {"error": f"no such call: {self.path}"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _whoami(self) -> None:
        self._json(200, {"name": "me", "type": "user", "orgs": []})

    def _info(self, name: str) -> None:
        if name not in self.hub.repos:
            self._json(404, {"error": "Repository not found"}, code="RepoNotFound")
            return
        repo = self.hub.repos[name]
        head = repo.commits[-1] if repo.commits else "0" * 40
        self._json(200, {"id": name, "private": repo.private, "sha": head, "siblings": [], "tags": []})

    def _create(self) -> None:
        asked = json.loads(self._body())
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self.hub.read_only:
            self._json(403, {"error": f"You don't have the rights to create {name}"})
        elif name in self.hub.repos:
            self._json(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            self.hub.repos[name] = Repo(asked.get("private", asked.get("visibility") == "private"))
            self._json(200, {"url": f"{self.hub.url}/{name}"})

    def _validate(self) -> None:
        self._body()
        self._json(200, {"errors": [], "warnings": []})

    def _preupload(self, name: str) -> None:
        files = []
        for asked in json.loads(self._body())["files"]:
            known = self.hub.repos[name].files.get(asked["path"])
            oid = known if isinstance(known, str) else known and _git_oid(known)
            mode = "lfs" if asked["path"].endswith(LARGE) else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json(200, {"files": files})

    def _batch(self, _: str) -> None:
        objects: list[dict[str, Any]] = []
        for asked in json.loads(self._body())["objects"]:
            item = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/blobs/{asked['oid']}", "header": {}}}
            objects.append(item)
        self._json(200, {"transfer": "basic", "objects": objects})

    def _blob(self, digest: str) -> None:
        with self.hub.lock:  # uploads come several at once
            refused = self.hub.refuse_uploads_after is not None and self.hub.admitted >= self.hub.refuse_uploads_after
            self.hub.admitted += not refused
        if refused and not self.hub.refusal:
            self.rfile.read(1000)
            self.close_connection = True
            return
        body = self._body()
        if refused:
            self._json(self.hub.refusal, {"error": "try later"})
            return
        if hashlib.sha256(body).hexdigest() != digest:
            self._json(400, {"error": "the digest is another"})
            return
        with self.hub.lock:
            self.hub.blobs[digest] = body
            self.hub.uploads.append(digest)
        self._json(200, {})

    def _commit(self, name: str) -> None:
        body = self._body()
        lines = [json.loads(line) for line in body.splitlines()]
        repo = self.hub.repos[name]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif value["oid"] not in self.hub.blobs:
                self._json(400, {"error": f"no blob {value['oid']}"})
                return
            else:
                repo.files[value["path"]] = value["oid"]
        repo.commits.append(hashlib.sha1(body).hexdigest())
        address = f"{self.hub.url}/{name}/commit/{repo.commits[-1]}"
        self._json(200, {"commitUrl": address, "commitOid": repo.commits[-1], "success": True})

    def _json(self, status: int, answer: dict[str, Any], code: str = "") -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _handler(hub: Hub) -> type[Handler]:
    return type("Bound", (Handler,), {"hub": hub})


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def running_hub(**faults: Any) -> Iterator[Hub]:
    """The server on a free port of this machine, until the block ends."""
    hub = Hub(**faults)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
