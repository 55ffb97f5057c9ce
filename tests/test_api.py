"""The verbs as functions: one way from a config to an answer and a GGUF."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from whet import api, console
from whet.errors import ConfigError, WhetError

ROWS = [{"prompt": f"Question: {a} and {b}?\nAnswer:\n", "completion": str(a + b)} for a in range(5) for b in range(4)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("api")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    keys = {
        "base_model": str(tiny_llama_dir),
        "datasets": [{"path": "rows.jsonl"}],  # beside the config, not in the working directory
        "adapter": "lora",
        "lora_r": 2,
        "sequence_len": 64,
        "max_steps": 2,
        "output_dir": str(folder / "named-in-the-config"),
        "liger_rope": True,
    }
    (folder / "c.yml").write_text(yaml.safe_dump(keys))
    return folder / "c.yml"


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    return api.train(config)


def test_train_writes_where_the_config_says(config: Path, run: Path) -> None:
    assert run == config.parent / "named-in-the-config"
    assert (run / "adapter" / "adapter_config.json").is_file()


def test_overrides_and_out_win_over_the_config(config: Path, tmp_path: Path) -> None:
    run = api.train(str(config), overrides=["max_steps=1", "lora_r=3"], out=str(tmp_path / "run"))
    assert run == tmp_path / "run"
    settings = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 3
    assert json.loads((run / "manifest.json").read_text())["steps"] == 1


def test_what_the_config_makes_of_foreign_keys_is_said(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.forget_notices()
    api.train(config, overrides=["max_steps=1"], out=tmp_path / "run")
    said = capsys.readouterr().err
    assert "liger_rope" in said and "trained" in said and "tokens/s" in said


def test_a_bad_override_is_a_config_error(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_stps"):
        api.train(config, overrides=["max_stps=1"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_chat_answers_one_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.chat(run, prompt="1 and 2?", max_tokens=4)
    assert capsys.readouterr().out != ""


def test_chat_with_nothing(tmp_path: Path) -> None:
    with pytest.raises(WhetError):
        api.chat(tmp_path / "none", prompt="1 and 2?")


def test_export_writes_and_proves(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    report = api.export(run, quants=["f16"], out=tmp_path)
    (file,) = report.files
    assert file.path.parent == tmp_path and file.path.suffix == ".gguf" and (tmp_path / "Modelfile").is_file()
    assert file.verdict.tokens_identical and math.isfinite(file.verdict.kl_mean)
