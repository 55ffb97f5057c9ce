"""A model created in Ollama over its REST API: blobs by their digest, then one request with the Modelfile's content.

HEAD and POST /api/blobs/sha256:..., POST /api/create with NDJSON progress (Ollama's docs/api.md). The client is
Python's own ``http.client``: nothing to install, files go out in pieces, and no proxy stands in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shlex
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from whet.console import Progress, notice, warn
from whet.errors import ExportError
from whet.export.modelfile_reader import create_request
from whet.export.ollama_names import Address, check_name, ollama_address

PROBE_SECONDS = 3.0  # for an answer that costs the server nothing
WORK_SECONDS = 600.0  # between two signs of life while it works
PIECE = 2**20
AGAIN = "run the same command again: what Ollama has already is not sent twice"


class OllamaClient:
    """The few calls that create a model.

    Args:
        address: None takes ``OLLAMA_HOST``, else Ollama's default.
    """

    def __init__(self, address: Address | None = None) -> None:
        self.address = ollama_address() if address is None else address

    def version(self) -> str | None:
        """The version of the Ollama that answers there; None where nothing does.

        Raises:
            ExportError: something answers that is not Ollama.
        """
        connection = self._connection(PROBE_SECONDS)
        try:
            connection.request("GET", f"{self.address.path}/api/version")
            found = json.loads(connection.getresponse().read())
        except OSError:
            return None
        except (http.client.HTTPException, ValueError):
            found = None
        finally:
            connection.close()
        if not isinstance(found, dict) or not isinstance(found.get("version"), str):
            raise ExportError(f"what answers at {self.address} is not Ollama", fix="check OLLAMA_HOST")
        return found["version"]

    def has_blob(self, digest: str) -> bool:
        """Whether the server holds the file of this digest, ``sha256:<hex>``."""
        connection = self._connection(PROBE_SECONDS * 10)
        try:
            with self._talking():
                connection.request("HEAD", f"{self.address.path}/api/blobs/{digest}")
                response = connection.getresponse()
                response.read()
        finally:
            connection.close()
        if response.status not in (200, 404):
            raise self._refusal(response.status, b"")
        return response.status == 200

    def send_blob(self, file: Path, digest: str) -> None:
        """Send a file in pieces; the server checks its digest.

        Raises:
            ExportError: the server refuses it, or the connection breaks off.
        """
        size = file.stat().st_size
        connection = self._connection(WORK_SECONDS)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        try:
            with Progress(f"sending {file.name} to Ollama", size // 10**6, "MB") as progress, self._talking():
                # It may say why before it hangs up: what it said is read even where no more can be sent.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    place = f"{self.address.path}/api/blobs/{digest}"
                    connection.request("POST", place, _pieces(file, size, progress), headers)
                response = connection.getresponse()
                said = response.read()
        finally:
            connection.close()
        if response.status not in (200, 201):
            raise self._refusal(response.status, said)

    def create(self, body: dict[str, Any]) -> Iterator[str]:
        """Create a model; what the server does comes as it says it, without repetitions.

        Raises:
            ExportError: the server refuses, or ends before it has said "success".
        """
        connection = self._connection(WORK_SECONDS)
        last = ""
        try:
            with self._talking():
                encoded = json.dumps(body, ensure_ascii=False).encode()
                headers = {"Content-Type": "application/json"}
                connection.request("POST", f"{self.address.path}/api/create", encoded, headers)
                response = connection.getresponse()
                if response.status != 200:
                    raise self._refusal(response.status, response.read())
                for line in response:
                    status = self._status(line)
                    if status not in ("", last):
                        last = status
                        yield status
        finally:
            connection.close()
        if last != "success":
            raise ExportError(
                f"Ollama at {self.address} ended without saying that the model is there (last: {last or 'nothing'})",
                fix=AGAIN,
            )

    def models(self) -> list[str]:
        """The names of the models that the server has."""
        connection = self._connection(PROBE_SECONDS * 10)
        try:
            with self._talking():
                connection.request("GET", f"{self.address.path}/api/tags")
                response = connection.getresponse()
                said = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise self._refusal(response.status, said)
        return [str(model["name"]) for model in json.loads(said)["models"]]

    def chat(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """One streamed answer; the last event has ``done`` and the counts. Closing the iterator stops the model.

        Raises:
            ExportError: the server refuses, breaks off, or says that something failed.
        """
        connection = self._connection(WORK_SECONDS)
        try:
            with self._talking():
                headers = {"Content-Type": "application/json"}
                encoded = json.dumps(body, ensure_ascii=False).encode()
                connection.request("POST", f"{self.address.path}/api/chat", encoded, headers)
                response = connection.getresponse()
                if response.status != 200:
                    raise self._refusal(response.status, response.read())
                for line in response:
                    event = json.loads(line) if line.strip() else {}
                    if event.get("error"):
                        raise ExportError(f"Ollama could not answer: {event['error']}")
                    yield event
                    if event.get("done"):
                        return
                raise ExportError(f"the answer of Ollama at {self.address} has no end", fix="ask again")
        finally:
            connection.close()

    def _status(self, line: bytes) -> str:
        if not line.strip():
            return ""
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise ExportError(f"Ollama at {self.address} answered {line[:200]!r}", "a line of JSON", AGAIN)
        if said.get("error"):
            raise ExportError(f"Ollama could not create the model: {said['error']}")
        return str(said.get("status") or "")

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.address.scheme == "https" else http.client.HTTPConnection
        return kind(self.address.host, self.address.port, timeout=seconds)

    def _talking(self) -> _Talking:
        return _Talking(self.address)

    def _refusal(self, status: int, said: bytes) -> ExportError:
        try:
            reason = json.loads(said)["error"]
        except (ValueError, KeyError, TypeError):
            reason = said[:200].decode("utf-8", "replace").strip() or http.client.responses.get(
                status, "no reason given"
            )
        return ExportError(f"Ollama at {self.address} refused ({status}): {reason}")


class _Talking:
    """Turns a connection that breaks off into an error that says what to do."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError):
            raise ExportError(f"Ollama at {self.address} does not answer any more", fix=AGAIN) from error
        away = (
            isinstance(error, OSError) and error.filename is None
        )  # with a name it is a file here that cannot be read
        if away or isinstance(error, http.client.HTTPException):
            raise ExportError(f"the connection to Ollama at {self.address} broke off", fix=AGAIN) from error


class Made(Protocol):
    """A written file, as an export reports it."""

    @property
    def quant(self) -> str: ...

    @property
    def modelfile(self) -> Path: ...

    @property
    def verdict(self) -> Any: ...


def hand_to_ollama(files: Sequence[Made], names: Mapping[str, str], client: OllamaClient | None = None) -> None:
    """Create each file's model where an Ollama answers; else print the commands that do it. No file is lost either way.

    Args:
        names: quantisation -> name, as :func:`whet.export.ollama_names.names_for` gives them.

    Raises:
        ExportError: a server that refuses or goes away.
    """
    client = OllamaClient() if client is None else client
    good = [file for file in files if file.verdict is None or file.verdict.passed]
    for file in files:
        if file not in good:
            warn(f"{names[file.quant]} is not created in Ollama: the file is not the trained model")
    answers = client.version() is not None
    if good and not answers:
        notice(f"no Ollama answers at {client.address} (whet ollama serve starts one); when it does, type:")
    for file in good:
        name = names[file.quant]
        if not answers:
            print(f"ollama create {name} -f {shlex.quote(str(file.modelfile))}")
        else:
            create_model(name, file.modelfile, client)
        print(f"ollama run {name}")


def create_model(name: str, modelfile: Path, client: OllamaClient) -> None:
    """Create ``name`` from a Modelfile and the files that it names; what is done is shown on stderr.

    Nothing is created unless all of it has arrived; an interrupted upload leaves no model behind.

    Raises:
        ExportError: a bad name, a Modelfile that cannot be used, a server that refuses or goes away.
    """
    request = create_request(modelfile)
    body = {"model": check_name(name), **request.body, "stream": True}
    for field, files in (("files", request.files), ("adapters", request.adapters)):
        if files:
            body[field] = {key: _hand_over(file, client) for key, file in files.items()}
    for status in client.create(body):
        print(f"ollama: {status}", file=sys.stderr, flush=True)


def _hand_over(file: Path, client: OllamaClient) -> str:
    digest = file_digest(file)
    if not client.has_blob(digest):
        client.send_blob(file, digest)
    return digest


def file_digest(file: Path) -> str:
    """``sha256:<hex>`` of a file, read in pieces."""
    digest = hashlib.sha256()
    size = file.stat().st_size
    with Progress(f"reading {file.name}", size // 10**6, "MB") as progress:
        for piece in _pieces(file, size, progress):
            digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def _pieces(file: Path, size: int, progress: Progress) -> Iterator[bytes]:
    """The ``size`` bytes of a file; a file that became shorter meanwhile is an error and not a wait for ever."""
    done = 0
    with file.open("rb") as stream:
        while piece := stream.read(min(PIECE, size - done)):
            yield piece
            done += len(piece)
            progress.advance(done // 10**6 - progress.count)
    if done != size:
        raise ExportError(f"{file} became shorter while it was read", fix="wait until it is written, then try again")
