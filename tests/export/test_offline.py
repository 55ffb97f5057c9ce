"""No export talks to the network: run where there is none, and where every connection is recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whet.models.adapters import add_lora
from whet.models.load import load_model

EXPORT = (
    "import sys\n"
    "from whet.cli.main import run\n"
    "sys.exit(run(['export', sys.argv[3], '--to', sys.argv[1], '--out', sys.argv[2]]))\n"
)
HOOK = (
    "import json, os, sys\n"
    "def watch(event, arguments):\n"
    "    if event == 'socket.connect':\n"
    "        place = arguments[1]\n"
    "    elif event == 'socket.getaddrinfo':\n"
    "        place = arguments[:2]\n"
    "    else:\n"
    "        return\n"
    "    with open(os.environ['WATCHED'], 'a') as file:\n"
    "        file.write(json.dumps([event, [str(part) for part in place]]) + '\\n')\n"
    "sys.addaudithook(watch)\n"
)
LOOPBACK = ("127.0.0.1", "localhost")
FORMS = ("gguf", "merged", "adapter", "adapter-gguf")
BY_LLAMACPP = ("gguf", "adapter-gguf")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter of the starter."""
    folder = tmp_path_factory.mktemp("adapter")
    model, tokenizer = load_model("starter")
    add_lora(model, rank=4, init_lora_weights=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def source(form: str, adapter: Path) -> str:
    return str(adapter) if form.startswith("adapter") else "starter"


def unshare() -> list[str]:
    """The command that takes the network away; skip where the kernel does not let a user do so."""
    tool = shutil.which("unshare")
    probe = [tool or "unshare", "-rn", "true"]
    if tool is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces for users here")
    return [tool, "-rn", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]


def loopback_works(prefix: list[str]) -> bool:
    code = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname(), 2)\n"
    )
    return subprocess.run([*prefix, sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("form", FORMS)
def test_in_a_network_namespace_without_a_network(
    form: str, adapter: Path, needs_llamacpp: None, tmp_path: Path
) -> None:
    """With a loopback address the file is proved there too; without one llama.cpp cannot be asked."""
    prefix = unshare()
    proved = loopback_works(prefix) or form not in BY_LLAMACPP
    options = [] if proved else ["--no-proof"]
    code = EXPORT.replace("sys.argv[2]]", f"sys.argv[2], *{options!r}]")
    command = [*prefix, sys.executable, "-c", code, form, str(tmp_path / "out"), source(form, adapter)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert (("same bytes" if form == "adapter" else "passed") in done.stdout) == proved
    assert any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_connections_go_to_this_machine_only(form: str, adapter: Path, needs_llamacpp: None, tmp_path: Path) -> None:
    """Python's own record of every connection and name look-up; asking llama.cpp over loopback is among them."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK)
    watched = tmp_path / "watched.jsonl"
    path = os.pathsep.join([str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", EXPORT, form, str(tmp_path / "out"), source(form, adapter)]
    environment = os.environ | {"PYTHONPATH": path, "WATCHED": str(watched)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in watched.read_text().splitlines()] if watched.exists() else []
    assert [place for _, place in seen if place[0] not in LOOPBACK] == []
    assert bool(seen) == (form in BY_LLAMACPP)  # the hook works: the proof's own requests were seen
