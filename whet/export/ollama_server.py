"""A local ``ollama serve``, where the program is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from whet.console import notice
from whet.errors import ExportError, MissingDependency
from whet.export.ollama import OllamaClient

START_SECONDS = 30.0
STOP_SECONDS = 10.0
STEP_SECONDS = 0.1
INSTALL = {
    "linux": "curl -fsSL https://ollama.com/install.sh | sh",
    "darwin": "brew install ollama, or the app from https://ollama.com/download",
}
INSTALL_ELSEWHERE = "the installer from https://ollama.com/download"


@contextmanager
def running_server(client: OllamaClient, seconds: float = START_SECONDS) -> Iterator[subprocess.Popen[bytes]]:
    """``ollama serve`` until the block ends; it is entered when the server answers.

    Args:
        client: asks at the address that the server listens on (both read ``OLLAMA_HOST``).
        seconds: how long to wait for its first answer.

    Raises:
        MissingDependency: the program is not installed; the message says how to install it.
        ExportError: it ends at once, or does not answer in time.
    """
    program = shutil.which("ollama")
    if program is None:
        raise MissingDependency(
            "the program ollama is not installed (or not in PATH)", fix=INSTALL.get(sys.platform, INSTALL_ELSEWHERE)
        )
    process = subprocess.Popen([program, "serve"])
    try:
        _wait_until_it_answers(process, client, seconds)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve() -> int:
    """Run a server until Ctrl-C or its own end; nothing is started where one answers already.

    Returns:
        The exit code of the server.
    """
    client = OllamaClient()
    version = client.version()
    if version is not None:
        notice(f"Ollama {version} answers at {client.address} already")
        return 0
    with running_server(client) as process:
        notice(f"Ollama {client.version()} answers at {client.address}; Ctrl-C stops it")
        return process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], client: OllamaClient, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        code = process.poll()
        if code is not None:
            raise ExportError(f"ollama serve ended at once with code {code}; what it said is above")
        if client.version() is not None:
            return
        time.sleep(STEP_SECONDS)
    raise ExportError(f"ollama serve was started but does not answer at {client.address} after {seconds:.0f} s")
