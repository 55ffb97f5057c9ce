"""`whet serve` as a process: what it serves, how it ends, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from whet.cli.main import run
from whet.errors import WhetError
from whet.llamacpp import available
from whet.serve.openai.run import serve

openai = pytest.importorskip("openai")
needs_llamacpp = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")
ASKED: Any = [{"role": "user", "content": "How many singers are there?"}]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter on the starter that changes what it says."""
    import torch
    from peft import LoraConfig, get_peft_model

    from whet.models.load import load_for_inference

    folder = tmp_path_factory.mktemp("runs") / "my-run"
    model, tokenizer = load_for_inference("starter")
    torch.manual_seed(3)
    tuned = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    tuned.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    (folder / "config.yml").write_text("adapter: lora\n")
    return folder


def _text(server: Any, prompt: str = "SELECT count", tokens: int = 24) -> str:
    return str(server.text(prompt=prompt, max_tokens=tokens).choices[0].text)


@needs_llamacpp
def test_a_run_is_exported_once_and_says_what_torch_says(check_openai: Any, run_folder: Path, cache: Path) -> None:
    """Two servers at once: one writes the file, the other waits for it; both answer as the trained model does."""
    with ThreadPoolExecutor(2) as pool:
        options = ("--cache", str(cache), "--parallel", "1")
        managers = [check_openai.serving(str(run_folder), *options) for _ in range(2)]
        found = list(pool.map(lambda manager: manager.__enter__(), managers))
        try:
            with check_openai.serving(str(run_folder), "--backend", "torch") as plain:
                said = [_text(server) for server in (*found, plain)]
                assert {server.model for server in (*found, plain)} == {"my-run"}
                tokens = [server.chat(max_tokens=1).usage.prompt_tokens for server in (*found, plain)]
        finally:
            for manager in managers:
                manager.__exit__(None, None, None)
    assert said[0] == said[1] == said[2] and len(set(tokens)) == 1
    files = [file.relative_to(cache) for file in cache.rglob("*") if file.is_file()]
    assert len([file for file in files if file.suffix == ".gguf"]) == 1
    assert not [file for file in files if ".part-" in str(file)]


@needs_llamacpp
def test_the_export_is_found_again_and_a_changed_adapter_is_not(run_folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    from whet.serve.cached import exported

    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    first = exported(copy, tmp_path / "cache")
    written = first.file.stat().st_mtime_ns
    assert exported(run_folder, tmp_path / "cache") == first, "the same content under another name"
    assert first.file.stat().st_mtime_ns == written
    file = copy / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    weights[next(iter(weights))] += 1
    save_file(weights, file)
    assert exported(copy, tmp_path / "cache").file != first.file
    template = copy / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    assert len({path.parent for path in (tmp_path / "cache").rglob("*.gguf")}) == 2
    exported(copy, tmp_path / "cache")
    assert len({path.parent for path in (tmp_path / "cache").rglob("*.gguf")}) == 3


@needs_llamacpp
def test_what_a_killed_export_left_is_cleared(run_folder: Path, tmp_path: Path) -> None:
    from whet.serve.cached import exported

    place = exported(run_folder, tmp_path).file.parent
    (place / "facts.json").unlink()  # as if it had been killed before the end
    left = place.with_name(f".{place.name}.part-99999999")
    left.mkdir()
    (left / "model.f16.gguf").write_bytes(b"half")
    assert exported(run_folder, tmp_path).file.parent == place
    assert not left.exists() and (place / "facts.json").is_file()


def test_torch_answers_one_after_the_other(check_openai: Any) -> None:
    with check_openai.serving("starter", "--backend", "torch", "--seconds", "60") as server:
        whole = server.chat(max_tokens=24, logprobs=True, top_logprobs=2).choices[0]
        text, finish, _ = check_openai.streamed(server.chat(max_tokens=24, stream=True))
        assert text == whole.message.content and finish == whole.finish_reason
        for entry in whole.logprobs.content:
            assert entry.logprob == entry.top_logprobs[0].logprob > entry.top_logprobs[1].logprob
        stop = text[len(text) // 2 :][:3]
        assert server.chat(max_tokens=24, stop=stop).choices[0].message.content == text[: text.index(stop)]
        drawn = [server.text(temperature=1.5, seed=seed, max_tokens=12).choices[0].text for seed in (5, 5, 6)]
        assert drawn[0] == drawn[1] != drawn[2]
        with ThreadPoolExecutor(3) as pool:
            assert set(pool.map(lambda _: _text(server, tokens=8), range(3))) == {_text(server, tokens=8)}
        check_openai.refused(openai.BadRequestError, lambda: server.chat(response_format={"type": "json_object"}))
        stream = server.text(prompt="fox", stream=True, max_tokens=2000, temperature=2, n=4)
        next(iter(stream))
        stream.close()
        check_openai.until_idle(server)
        assert _text(server, tokens=4)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@needs_llamacpp
def test_a_kill_under_load_hangs_nobody_and_the_next_server_answers(check_openai: Any, starter_gguf: Path) -> None:
    options = ("--port", str(_free_port()), "--seconds", "20")
    ended: list[str] = []

    def load(server: Any, killed: threading.Event) -> None:
        for _ in range(1000):
            try:
                for _chunk in server.text(stream=True, max_tokens=1000, temperature=2):
                    pass
                server.chat(n=4, max_tokens=200)
            except openai.APIError as error:
                ended.append(type(error).__name__)
                assert killed.is_set(), error
                return
            except Exception as error:  # the client passes on what its HTTP library says in the middle of a stream
                ended.append(type(error).__name__)
                return

    with pytest.raises(ProcessLookupError), check_openai.serving(str(starter_gguf), *options) as server:
        killed = threading.Event()
        threads = [threading.Thread(target=load, args=(server, killed)) for _ in range(8)]
        for thread in threads:
            thread.start()
        while server.health()["busy"] < 2:
            time.sleep(0.01)
        killed.set()
        server.process.kill()
        for thread in threads:
            thread.join(25)
        assert not any(thread.is_alive() for thread in threads) and len(ended) == 8
        assert server.process.wait(10) == -signal.SIGKILL
        os.kill(server.process.pid, 0)  # it is gone
    with check_openai.serving(str(starter_gguf), *options) as server:
        assert _text(server)


@needs_llamacpp
def test_a_model_without_a_template_and_a_signal(check_openai: Any, bare_gguf: Path) -> None:
    """It continues text only. At SIGTERM the stream that runs is finished; a new request finds nobody."""
    with check_openai.serving(str(bare_gguf), "--name", "bare", "--parallel", "1") as server:
        assert _text(server)
        error = check_openai.refused(openai.BadRequestError, server.chat)
        assert error.code == "no_chat_template" and server.client.models.list().data[0].id == "bare"
        stream = iter(server.text(stream=True, n=2, max_tokens=400, temperature=2, logprobs=5))
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        rest = list(stream)
        assert sum(chunk.choices[0].finish_reason is not None for chunk in rest) == 2
        assert server.process.wait(30) == 0
        with pytest.raises(openai.APIConnectionError):
            server.text()


def test_what_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(WhetError, match="opens the server to other machines"):
        serve("starter", host="0.0.0.0")
    with pytest.raises(WhetError, match="opens the server"):
        serve("starter", host="::")
    with pytest.raises(WhetError, match="--backend vllm"):
        serve("starter", backend="vllm")
    with pytest.raises(WhetError, match="API key that is empty"):
        serve("starter", api_key="")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(WhetError, match="cannot listen at"):
            serve("starter", port=taken.getsockname()[1])


def test_errors_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        code = run(["serve", *arguments, "--port", "0"])
        return code, capsys.readouterr().err

    code, text = said(str(tmp_path / "nothing" / "here"))
    assert code == 2 and "no folder" in text and "Traceback" not in text
    code, text = said("starter", "--api-key-file", str(tmp_path / "none"))
    assert code == 2 and "cannot read the key" in text
    code, text = said("starter", "--context", "many")
    assert code == 2 and "whet serve --help" in text
    (tmp_path / "model.gguf").write_text(json.dumps({}))
    code, text = said(str(tmp_path / "model.gguf"))
    assert code == 2 and "GGUF" in text and "Traceback" not in text
