"""Creating a model in Ollama: every digest, every byte and the request, against a server that speaks its protocol."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from modelfile_reader import read_modelfile
from ollama_server import VERSION, running_ollama

from whet.cli import main
from whet.errors import ExportError
from whet.export.modelfile import modelfile
from whet.export.ollama import OllamaClient, create_model, file_digest, hand_to_ollama
from whet.export.ollama_names import ollama_address
from whet.text.template import bundled


@dataclass(frozen=True)
class File:
    """A written file as an export reports it."""

    quant: str
    modelfile: Path
    verdict: Any = None


def client(url: str) -> OllamaClient:
    return OllamaClient(ollama_address({"OLLAMA_HOST": url}))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A Modelfile with all that ours can hold, beside a file of 3 MB that begins as a GGUF does."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + random.Random(5).randbytes(3_000_001))
    text = modelfile("m.gguf", bundled("chatml"), system='Say "hi".\n# é', num_ctx=512, license="mit\nof 2026")
    (tmp_path / "Modelfile").write_text(text, encoding="utf-8")
    return tmp_path / "Modelfile"


def test_the_model_arrives_whole(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (written.parent / "m.gguf").read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with running_ollama() as ollama:
        create_model("me/tiny:q4", written, client(ollama.url))
    assert ollama.calls == [("HEAD", f"/api/blobs/{digest}"), ("POST", f"/api/blobs/{digest}"), ("POST", "/api/create")]
    assert ollama.blobs == {digest: data}
    assert ollama.models["me/tiny:q4"] == {
        "model": "me/tiny:q4",
        "files": {"model.gguf": digest},
        "template": bundled("chatml").go(),
        "system": 'Say "hi".\n# é',
        "parameters": {"num_ctx": 512, "stop": ["<|im_end|>"]},
        "license": ["mit\nof 2026"],
        "stream": True,
    }
    shown = capsys.readouterr().err
    assert "sending m.gguf to Ollama: 3/3 MB" in shown
    assert [line for line in shown.splitlines() if line.startswith("ollama:")] == [
        "ollama: parsing GGUF",
        "ollama: creating new layer",
        "ollama: writing manifest",
        "ollama: success",
    ]


def test_what_the_server_has_is_not_sent_again(written: Path) -> None:
    with running_ollama() as ollama:
        create_model("a", written, client(ollama.url))
        before = len(ollama.calls)
        create_model("b", written, client(ollama.url))
    assert [method for method, _ in ollama.calls[before:]] == ["HEAD", "POST"]
    assert set(ollama.models) == {"a", "b"}


def test_a_large_file_goes_out_in_pieces(tmp_path: Path) -> None:
    big = tmp_path / "big.gguf"
    with big.open("wb") as file:
        file.write(b"GGUF")
        file.truncate(60_000_000)
    with running_ollama() as ollama:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        digest = file_digest(big)
        hashing = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        client(ollama.url).send_blob(big, digest)
        assert len(ollama.blobs[digest]) == 60_000_000
    assert hashing < 8_000_000


def test_a_connection_that_breaks_off_and_a_second_try(written: Path) -> None:
    with running_ollama(drop_upload_after=1_000_000) as ollama:
        with pytest.raises(ExportError, match=r"broke off[^Z]*not sent twice"):
            create_model("m", written, client(ollama.url))
        assert ollama.models == {} and ollama.blobs == {}
        ollama.drop_upload_after = None
        create_model("m", written, client(ollama.url))
        assert list(ollama.models) == ["m"]


def test_a_server_that_dies_while_it_creates(written: Path) -> None:
    with running_ollama(die_in_create=True) as ollama:
        with pytest.raises(ExportError, match=r"ended without saying|broke off"):
            create_model("m", written, client(ollama.url))
        assert ollama.models == {}


def test_a_refusal_before_the_file_has_arrived_is_shown(written: Path) -> None:
    words = "write /models/blobs: no space left on device"
    with running_ollama(refuse_upload=(500, words)) as ollama, pytest.raises(ExportError, match=rf"\(500\): {words}"):
        create_model("m", written, client(ollama.url))


def test_a_file_that_is_no_gguf_is_refused_in_ollamas_words(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK" * 1000)
    (tmp_path / "Modelfile").write_text("FROM ./m.gguf")
    with running_ollama() as ollama, pytest.raises(ExportError, match="not in GGUF format"):
        create_model("m", tmp_path / "Modelfile", client(ollama.url))


def test_a_file_that_changes_between_its_digest_and_its_way(written: Path) -> None:
    with running_ollama() as ollama:
        digest = file_digest(written.parent / "m.gguf")
        (written.parent / "m.gguf").write_bytes(b"GGUF and something else")
        with pytest.raises(ExportError, match="digest mismatch"):
            client(ollama.url).send_blob(written.parent / "m.gguf", digest)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b'{"status":"parsing GGUF"}', b'{"error":"unsupported architecture"}'], "unsupported architecture"),
        ([b'{"status":"parsing GGUF"}'], "ended without saying.*last: parsing GGUF"),
        ([], "last: nothing"),
        ([b"<html>"], "a line of JSON"),
        ([b"[]"], "a line of JSON"),
    ],
)
def test_errors_in_the_progress(lines: list[bytes], words: str, written: Path) -> None:
    with running_ollama(create_lines=lines) as ollama, pytest.raises(ExportError, match=words):
        create_model("m", written, client(ollama.url))


def test_nobody_there_and_somebody_else_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert client(f"http://127.0.0.1:{free.getsockname()[1]}").version() is None
    with running_ollama() as ollama:
        assert client(ollama.url).version() == VERSION
        with pytest.raises(ExportError, match="is not Ollama"):
            client(f"{ollama.url}/elsewhere").version()


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.export.ollama.PROBE_SECONDS", 0.05)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        silent = client(f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert silent.version() is None
        with pytest.raises(ExportError, match="does not answer any more"):
            silent.has_blob("sha256:" + "0" * 64)


def test_without_a_server_the_commands_are_printed(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = client(f"http://127.0.0.1:{free.getsockname()[1]}")
        spaced = written.parent / "my files" / "Modelfile"
        hand_to_ollama([File("q8_0", written), File("f16", spaced)], {"q8_0": "m:q8_0", "f16": "m:f16"}, nobody)
    assert capsys.readouterr().out.splitlines() == [
        f"ollama create m:q8_0 -f {written}",
        "ollama run m:q8_0",
        f"ollama create m:f16 -f '{spaced}'",
        "ollama run m:f16",
    ]


def test_a_file_that_failed_the_proof_is_not_handed_over(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Failed:
        passed = False

    with running_ollama() as ollama:
        files = [File("q8_0", written), File("f16", written, Failed())]
        hand_to_ollama(files, {"q8_0": "m:q8_0", "f16": "m:f16"}, client(ollama.url))
        assert list(ollama.models) == ["m:q8_0"]
    assert "m:f16 is not created" in capsys.readouterr().err


def test_the_whole_way_from_an_export(
    tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_ollama() as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.url)
        options = [
            "--quant",
            "f16,q8_0",
            "--no-proof",
            "--system",
            "Be brief.",
            "--out",
            str(tmp_path),
            "--ollama",
            "t",
        ]
        assert main.run(["export", str(tiny_llama_dir), *options]) == 0
        assert set(ollama.models) == {"t:f16", "t:q8_0"}
        for quant in ("f16", "q8_0"):
            data = (tmp_path / f"model.{quant}.gguf").read_bytes()
            body = ollama.models[f"t:{quant}"]
            assert ollama.blobs[body["files"]["model.gguf"]] == data
            commands = dict(read_modelfile((tmp_path / f"Modelfile.{quant}").read_text()))
            assert (body["template"], body["system"]) == (commands["template"], "Be brief.")
        assert "ollama run t:q8_0" in capsys.readouterr().out
        assert main.run(["ollama", "create", "again", "-f", str(tmp_path / "Modelfile")]) == 0
        assert "again" in ollama.models
        assert main.run(["export", str(tiny_llama_dir), *options[:-1], "no name"]) == 2
    assert main.run(["ollama", "create", "again", "-f", str(tmp_path / "Modelfile")]) == 2
    assert "no Ollama answers" in capsys.readouterr().err


def test_ctrl_c_in_the_middle_leaves_no_model(written: Path) -> None:
    """The upload stands still when the server stops reading; the signal comes then."""
    reached = threading.Event()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def stand_still() -> None:
            for answer in (b'{"version":"1"}', b""):
                caller, _ = server.accept()
                caller.recv(2**16)
                status = b"200 OK" if answer else b"404 Not Found"
                caller.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(answer), answer))
                caller.close()
            caller, _ = server.accept()
            caller.recv(1000)
            reached.set()
            time.sleep(20)

        threading.Thread(target=stand_still, daemon=True).start()
        with (written.parent / "m.gguf").open("r+b") as file:
            file.truncate(200_000_000)
        environment = {**os.environ, "OLLAMA_HOST": f"127.0.0.1:{server.getsockname()[1]}"}
        command = [sys.executable, "-m", "whet.cli.main", "ollama", "create", "m", "-f", str(written)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert reached.wait(30)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped by Ctrl-C" in said and "Traceback" not in said
