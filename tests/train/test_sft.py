"""Runs from a config: what is in the run folder, what is trained, what is refused."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from small_runs import STEPS, metrics_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from whet import api, console
from whet.config import load_config
from whet.data.run_rows import Rows, prepare_rows
from whet.errors import DataError, ModelError, OutputError, TrainingError, WhetError
from whet.train.base import tokenizer_for
from whet.train.checkpoint import is_complete
from whet.train.sft import run_sft

WriteConfig = Callable[..., Path]


class TestTheRunFolder:
    def test_holds_everything(self, lora_run: Path) -> None:
        assert {path.name for path in lora_run.iterdir()} == {
            "adapter",
            "checkpoints",
            "config.yml",
            "manifest.json",
            "metrics.jsonl",
        }
        names = {path.name for path in (lora_run / "checkpoints").iterdir()}
        assert names == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
        assert all(is_complete(path) for path in (lora_run / "checkpoints").iterdir())

    def test_the_config_loads_again_and_is_the_same(self, lora_run: Path) -> None:
        again = load_config(lora_run / "config.yml")
        assert (again.max_steps, again.lora_r, again.seed, again.adapter) == (STEPS, 4, 3407, "lora")
        first = load_config(lora_run.parent / "c.yml")
        assert yaml.safe_load(again.to_yaml()) == yaml.safe_load(first.to_yaml(absolute=True))

    def test_peft_loads_the_adapter_on_a_fresh_base(self, lora_run: Path, tiny_llama_dir: Path) -> None:
        base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
        ids_BT = torch.tensor(
            [AutoTokenizer.from_pretrained(lora_run / "adapter")("Question: two and four?")["input_ids"]]
        )
        with torch.no_grad():
            before = base(ids_BT).logits
            after = PeftModel.from_pretrained(base, lora_run / "adapter")(ids_BT).logits
        assert (after - before).abs().max() > 1e-3
        settings = json.loads((lora_run / "adapter" / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(tiny_llama_dir) and settings["r"] == 4

    def test_the_adapter_is_the_last_checkpoints(self, lora_run: Path) -> None:
        saved = load_file(lora_run / "adapter" / "adapter_model.safetensors")
        last = load_file(lora_run / "checkpoints" / "checkpoint-6" / "adapter_model.safetensors")
        assert saved.keys() == last.keys() and all(torch.equal(saved[name], last[name]) for name in saved)
        assert {value.dtype for value in saved.values()} == {torch.float32}

    def test_metrics(self, lora_run: Path) -> None:
        lines = metrics_of(lora_run)
        assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
        assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
        assert all(line["learning_rate"] > 0 and line["tokens_per_second"] > 0 for line in lines if "loss" in line)

    def test_the_manifest(self, lora_run: Path, rows_file: Path) -> None:
        manifest = json.loads((lora_run / "manifest.json").read_text())
        assert manifest["seed"] == 3407 and manifest["steps"] == STEPS and manifest["interrupted"] is False
        assert {"whet", "python", "torch", "transformers", "peft"} <= manifest["versions"].keys()
        assert manifest["device"]["device"] in ("cpu", "cuda", "mps")
        rows = len(rows_file.read_text().splitlines())
        assert manifest["data"]["rows"] == rows - 5 and len(manifest["data"]["sha256"]) == 64
        assert 0 < manifest["data"]["trained_tokens"] < manifest["data"]["tokens"]
        assert manifest["chat_template"] == "frame" and manifest["train_tokens_per_second"] > 0
        assert manifest["forward"] == "engine" and manifest["memory"]["layers_keep"] == "2 x none"

    def test_the_tokenizer_speaks_the_frame_of_the_rows(self, lora_run: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(lora_run / "adapter")
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "two and four?"}], tokenize=False, add_generation_prompt=True
        )
        assert text == "Question: two and four?\nAnswer:\n"


def test_the_same_config_gives_the_same_bits_and_hash(
    lora_run: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    again = api.train(write_config(tmp_path, save_steps=2, eval_steps=3, val_set_size=5, logging_steps=2))
    first = load_file(lora_run / "adapter" / "adapter_model.safetensors")
    second = load_file(again / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    hashes = [json.loads((run / "manifest.json").read_text())["data"]["sha256"] for run in (lora_run, again)]
    assert hashes[0] == hashes[1]


def test_other_rows_give_another_hash(lora_run: Path, tmp_path: Path, write_config: WriteConfig) -> None:
    other = api.train(write_config(tmp_path, max_steps=1, train_on_inputs=True, val_set_size=5))
    hashes = [json.loads((run / "manifest.json").read_text())["data"]["sha256"] for run in (lora_run, other)]
    assert hashes[0] != hashes[1]


def test_full_fine_tuning_writes_a_model(tmp_path: Path, tiny_llama_dir: Path, write_config: WriteConfig) -> None:
    run = api.train(write_config(tmp_path, adapter=None, max_steps=2))
    assert not (run / "adapter").exists()
    tuned = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    moved = [not torch.equal(p, base.get_parameter(name)) for name, p in tuned.named_parameters()]
    assert all(moved)
    assert AutoTokenizer.from_pretrained(run / "model").eos_token == "<|im_end|>"


def test_packed_or_not_all_rows_are_seen_once(tmp_path: Path, write_config: WriteConfig, rows_file: Path) -> None:
    figures = []
    for packing in (True, False):
        folder = tmp_path / str(packing)
        folder.mkdir()
        config = load_config(write_config(folder, sample_packing=packing, max_steps=None, num_epochs=1))
        result = run_sft(config)
        stats = json.loads((result.folder / "manifest.json").read_text())["data"]
        assert result.tokens == stats["tokens"] and stats["rows"] == len(rows_file.read_text().splitlines())
        figures.append(result.steps)
    assert figures[0] < figures[1]


def test_rows_held_out_are_not_trained(write_config: WriteConfig, tmp_path: Path, rows_file: Path) -> None:
    total = len(rows_file.read_text().splitlines())

    def prepared(**keys: object) -> Rows:
        config = load_config(write_config(tmp_path, **keys))
        return prepare_rows(config, tokenizer_for(config), 256)

    for size, expected in ((5, 5), (0.25, total // 4)):
        rows = prepared(val_set_size=size)
        assert rows.valid is not None
        assert len(rows.valid) == expected and len(rows.train) == total - expected
        assert not set(rows.train.order.tolist()) & set(rows.valid.order.tolist())
        assert rows.train.stats.tokens == rows.train.lengths.sum()
    with pytest.raises(DataError, match="leaves no training rows"):
        prepared(val_set_size=total)


def test_a_source_is_seen_as_often_as_its_weight_says(
    write_config: WriteConfig, tmp_path: Path, rows_file: Path
) -> None:
    total = len(rows_file.read_text().splitlines())
    sources = [{"path": str(rows_file), "weight": 0.5}, {"path": str(rows_file), "weight": 3}]
    config = load_config(write_config(tmp_path, datasets=sources))
    rows = prepare_rows(config, tokenizer_for(config), 256)
    first = rows.train.order[rows.train.order < total]
    assert len(first) == total // 2 == len(set(first.tolist()))
    assert np.bincount(rows.train.order, minlength=2 * total)[total:].tolist() == [3] * total


def test_validation_rows_from_a_file_of_their_own(tmp_path: Path, write_config: WriteConfig, rows_file: Path) -> None:
    run = api.train(write_config(tmp_path, test_datasets=[{"path": str(rows_file)}], max_steps=2))
    assert [line["step"] for line in metrics_of(run) if "eval_loss" in line] == [2]


def test_a_request_beyond_the_models_context_is_clamped(
    tmp_path: Path, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    console.forget_notices()
    run = api.train(write_config(tmp_path, sequence_len=4096, max_steps=1))
    assert json.loads((run / "manifest.json").read_text())["context_length"] == 512
    assert "the model reads at most 512 tokens" in capsys.readouterr().err


def test_a_run_reaches_no_network(
    tmp_path: Path, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is looked up, not even for a moment: an offline machine must not wait for a name server."""
    hosts: list[str] = []

    def refuse(host: str, *_: Any, **__: Any) -> Any:
        hosts.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(Exception, match="no network"):
        huggingface_hub.HfApi().model_info("owner/name")
    assert hosts, "a look-up is not noticed here"
    hosts.clear()
    run = api.train(write_config(tmp_path, base_model="starter", max_steps=1, save_steps=1))
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert hosts == []
    assert "warning" not in capsys.readouterr().err.lower()


class TestRefused:
    """One error of whet's own, and nothing half-written."""

    def test_a_place_below_a_file(self, tmp_path: Path, write_config: WriteConfig) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(OutputError, match="a file or folder of that name is in the way"):
            api.train(write_config(tmp_path), out=tmp_path / "file" / "run")
        assert (tmp_path / "file").read_text() == "x"

    def test_no_examples(self, tmp_path: Path, write_config: WriteConfig) -> None:
        (tmp_path / "empty.jsonl").write_text("")
        with pytest.raises(DataError, match="empty"):
            api.train(
                write_config(tmp_path, datasets=[{"path": str(tmp_path / "empty.jsonl")}]), out=tmp_path / "a" / "b"
            )
        assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yml", "empty.jsonl"]

    def test_no_example_short_enough(self, tmp_path: Path, write_config: WriteConfig) -> None:
        with pytest.raises(DataError, match="longer than sequence_len") as caught:
            api.train(write_config(tmp_path, sequence_len=8))
        assert "raise sequence_len" in caught.value.fix

    def test_a_model_without_weights(self, tmp_path: Path, tiny_llama_dir: Path, write_config: WriteConfig) -> None:
        folder = shutil.copytree(tiny_llama_dir, tmp_path / "model")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="holds no weights"):
            api.train(write_config(tmp_path, base_model=str(folder)))

    def test_a_special_token_of_nobody(self, tmp_path: Path, write_config: WriteConfig) -> None:
        with pytest.raises(WhetError, match="not in the vocabulary"):
            api.train(write_config(tmp_path, special_tokens={"pad_token": "<|of-nobody|>"}))

    @pytest.mark.parametrize("logging_steps", [1, 100], ids=["logged", "not logged"])
    def test_a_loss_that_is_not_a_number(self, tmp_path: Path, write_config: WriteConfig, logging_steps: int) -> None:
        config = write_config(
            tmp_path, learning_rate=1e30, lora_alpha=1000, warmup_steps=0, max_grad_norm=0, logging_steps=logging_steps
        )
        with pytest.raises(TrainingError, match="the loss is not a number") as caught:
            api.train(config)
        assert "learning_rate" in caught.value.fix
        assert not (tmp_path / "run" / "adapter").exists()


def in_a_small_disk(folder: Path, kilobytes: int, command: list[str]) -> list[str]:
    """``command`` with a RAM disk of that size on ``folder``, in a mount namespace of its own."""
    mount = f'mount -t tmpfs -o size={kilobytes}k none {folder} && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command]


def small_disks_work(folder: Path) -> bool:
    try:
        return subprocess.run(in_a_small_disk(folder, 64, ["true"]), capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("when", ["at a checkpoint", "at the end"])
def test_a_full_disk(tmp_path: Path, write_config: WriteConfig, when: str) -> None:
    """A real one. The adapter has 200 kB, a checkpoint 700 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not small_disks_work(disk):
        pytest.skip("this system lets no user mount a RAM disk")
    strategy: dict[str, Any] = {"save_steps": 1} if when == "at a checkpoint" else {"save_strategy": "no"}
    config = write_config(tmp_path, max_steps=2, **strategy)
    listing = "find disk -mindepth 1 | sort; exit $code"
    script = f'"$@" ; code=$?; {listing}'
    command = [
        "sh",
        "-c",
        script,
        "sh",
        sys.executable,
        "-m",
        "whet.cli.main",
        "train",
        str(config),
        "--out",
        "disk/run",
    ]
    done = subprocess.run(
        in_a_small_disk(disk, 260 if when == "at a checkpoint" else 40, command),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr and "full" in done.stderr and "cannot write" in done.stderr
    assert "bug" not in done.stderr and "Traceback" not in done.stderr
    left = set(done.stdout.split())
    assert left <= {"disk/run", "disk/run/config.yml", "disk/run/metrics.jsonl", "disk/run/checkpoints"}, left
