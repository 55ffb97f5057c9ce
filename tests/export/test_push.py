"""``whet push`` as a process against the hub's protocol: what arrives can be used, and the token is nowhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, Hub, running_hub

from whet import api
from whet.cli import main


@pytest.fixture(scope="module")
def run(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two steps on a base with a card and a licence of its own."""
    folder = tmp_path_factory.mktemp("push")
    base = shutil.copytree(tiny_llama_dir, folder / "tiny-base")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    (base / "LICENSE").write_text("do as you like")
    rows = [{"prompt": f"Question {n}?\n", "completion": str(n)} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "base_model": str(base),
        "datasets": [{"path": str(folder / "rows.jsonl")}],
        "adapter": "lora",
        "lora_r": 4,
        "sequence_len": 64,
        "max_steps": 2,
        "output_dir": str(folder / "run"),
    }
    (folder / "c.yml").write_text(yaml.safe_dump(config))
    return api.train(folder / "c.yml")


@pytest.fixture
def push(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``whet push ...`` as a process of its own, with a home for the hub's client that a test may look into."""

    def start(hub: Hub, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "HF_DEBUG": "1"}
        command = [sys.executable, "-m", "whet.cli.main", "push", *arguments]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=kept | known | environment)

    return start


def test_an_adapter_arrives_and_the_token_is_nowhere(
    run: Path, push: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    with running_hub() as hub:
        done = push(hub, str(run), "me/model", "--token", TOKEN, "--debug")
        assert (done.returncode, done.stdout.strip()) == (0, f"{hub.url}/me/model"), done.stderr
        repo = hub.repos["me/model"]
        assert repo.private
        files = {name: hub.content("me/model", name) for name in repo.files}
    assert {"README.md", "LICENSE", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(files)
    assert files["adapter_model.safetensors"] == (run / "adapter/adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny-base"
    assert b"license: mit" in files["README.md"]
    assert "are a folder" not in done.stderr and "tiny-base is a folder here" in done.stderr
    here = str(run.parent).encode()
    assert [name for name, content in files.items() if here in content] == []
    everywhere = [file for top in (run, tmp_path) for file in top.rglob("*") if file.is_file()]
    assert len(everywhere) > 10
    assert [file for file in everywhere if TOKEN.encode() in file.read_bytes()] == []
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in content for content in files.values())
    assert list(run.glob(".push-*")) == []


def test_a_login_is_enough_and_a_failure_keeps_its_secret(
    run: Path, push: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with running_hub(refuse_uploads_after=0, refusal=403) as hub:
        failed = push(hub, str(run), "me/model", "--debug", HF_TOKEN=TOKEN)
        assert failed.returncode == 2
        assert "error: cannot push to me/model: the token may not write there" in failed.stderr
        assert TOKEN not in failed.stdout + failed.stderr
        assert hub.repos["me/model"].files == {}
        hub.refuse_uploads_after = None
        assert push(hub, str(run), "me/model", HF_TOKEN=TOKEN).returncode == 0
        assert "adapter_model.safetensors" in hub.repos["me/model"].files
    assert list(run.glob(".push-*")) == []


def test_offline_nobody_and_bad_names_stop_before_the_work(
    run: Path,
    push: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running_hub() as hub:
        done = push(hub, str(run), "me/model", HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN)
        assert done.returncode == 2 and "HF_HUB_OFFLINE" in done.stderr
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        for arguments, words in [
            (["me/model"], "nobody is logged in"),
            (["me/a/model", "--token", TOKEN], "no name of a repository"),
            (["me/model", "--token", TOKEN, "--to", "onnx"], "one of adapter, merged, gguf"),
        ]:
            assert main.run(["push", str(run), *arguments]) == 2
            assert words in capsys.readouterr().err
        assert hub.calls == []


def test_a_merged_model_loads_from_what_arrived(
    run: Path, push: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    with running_hub() as hub:
        done = push(hub, str(run), "me/model", "--to", "merged", "--public", "--license", "apache-2.0", HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert not hub.repos["me/model"].private
        for name in hub.repos["me/model"].files:
            (tmp_path / name).write_bytes(hub.content("me/model", name))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert model.config.model_type == "llama"
    assert "license: apache-2.0" in (tmp_path / "README.md").read_text()


def test_ggufs_come_with_their_proofs_and_what_ollama_needs(
    run: Path, push: Callable[..., subprocess.CompletedProcess[str]], needs_llamacpp: None
) -> None:
    with running_hub() as hub:
        done = push(hub, str(run), "me/model", "--to", "gguf", "--quant", "f16", HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        repo = hub.repos["me/model"]
        assert hub.content("me/model", "model.f16.gguf") == (run / "gguf/model.f16.gguf").read_bytes()
        assert {"Modelfile", "model.f16.gguf.verify.json", "README.md", "params", "template"} <= set(repo.files)
        assert json.loads(hub.content("me/model", "params"))["stop"] == ["<|im_end|>"]
        assert b"passed: mean KL" in hub.content("me/model", "README.md")
        written = (run / "gguf/model.f16.gguf").stat().st_mtime_ns
        assert push(hub, str(run), "me/again", "--to", "gguf", HF_TOKEN=TOKEN).returncode == 0
        assert (run / "gguf/model.f16.gguf").stat().st_mtime_ns == written, "a proved file was written again"
        verdict = json.loads((run / "gguf/model.f16.gguf.verify.json").read_text())
        (run / "gguf/model.f16.gguf.verify.json").write_text(json.dumps(verdict | {"passed": False}))
        failed = push(hub, str(run), "me/bad", "--to", "gguf", HF_TOKEN=TOKEN)
        assert failed.returncode == 1 and "is not the trained model" in failed.stderr
        assert "me/bad" not in hub.repos
