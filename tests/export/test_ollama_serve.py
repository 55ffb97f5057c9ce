"""``whet ollama serve``: with a program in PATH that answers as Ollama does, and without one."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ollama_server import running_ollama

from whet.cli import main
from whet.errors import ExportError, MissingDependency
from whet.export.ollama import OllamaClient
from whet.export.ollama_names import Address
from whet.export.ollama_server import running_server

ANSWERS = """#!{python}
import http.server, os, sys, time
assert sys.argv[1:] == ["serve"]
time.sleep(0.3)  # as a real one, it needs a moment
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{{"version":"9.9"}}'
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
host, port = os.environ["OLLAMA_HOST"].split(":")
http.server.HTTPServer((host, int(port)), Handler).serve_forever()
"""
ENDS = "#!{python}\nimport sys\nprint('bind: address already in use', file=sys.stderr)\nsys.exit(3)\n"
SAYS_NOTHING = "#!{python}\nimport time\ntime.sleep(60)\n"


def program(folder: Path, text: str) -> None:
    file = folder / "ollama"
    file.write_text(text.format(python=sys.executable))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Address:
    """A free port, and a PATH in which ``ollama`` is what the test puts there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
    monkeypatch.setenv("PATH", str(tmp_path))
    return Address("http", "127.0.0.1", port)


def test_it_is_up_inside_and_gone_after(address: Address, tmp_path: Path) -> None:
    program(tmp_path, ANSWERS)
    client = OllamaClient()
    assert client.address == address and client.version() is None
    with running_server(client) as process:
        assert client.version() == "9.9"
    assert process.poll() is not None
    assert client.version() is None


def test_ctrl_c_ends_it_and_the_server(address: Address, tmp_path: Path) -> None:
    program(tmp_path, ANSWERS)
    command = [sys.executable, "-m", "whet.cli.main", "ollama", "serve"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ), start_new_session=True)
    assert process.stderr is not None
    assert f"Ollama 9.9 answers at {address}; Ctrl-C stops it" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert OllamaClient().version() is None


def test_one_that_answers_already_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    with running_ollama() as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.url)
        assert main.run(["ollama", "serve"]) == 0
        assert f"answers at {ollama.url} already" in capsys.readouterr().err


def test_not_installed(address: Address, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingDependency, match=r"ollama\.com"), running_server(OllamaClient()):
        pass
    assert main.run(["ollama", "serve"]) == 2
    assert "is not installed" in capsys.readouterr().err


def test_a_program_that_ends_at_once_or_says_nothing(address: Address, tmp_path: Path) -> None:
    program(tmp_path, ENDS)
    with pytest.raises(ExportError, match="ended at once with code 3"), running_server(OllamaClient()):
        pass
    program(tmp_path, SAYS_NOTHING)
    with (
        pytest.raises(ExportError, match=r"does not answer at http://127\.0\.0\.1"),
        running_server(OllamaClient(), 0.4),
    ):
        pass
