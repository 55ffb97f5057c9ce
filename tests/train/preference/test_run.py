"""``rl:`` in a YAML file, to the end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import metrics_of
from tests_pairs import pair

from whet import api, console
from whet.config import parse_config
from whet.errors import ConfigError, DataError
from whet.train.preference.dpo import Dpo
from whet.train.preference.kto import Kto
from whet.train.preference.methods import method_of
from whet.train.preference.orpo import Orpo
from whet.train.preference.simpo import Simpo

MINIMAL = "base_model: starter\ndatasets:\n  - path: rows.jsonl\n"


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [pair(n) for n in range(24)]
    lines = [{"messages": r.prompt, "chosen": r.chosen[0], "rejected": r.rejected[0]} for r in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("rl", ["dpo", "ipo", "kto", "orpo", "simpo"])
def test_every_method_trains(rl: str, pairs_file: Path, write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config(
        tmp_path, rl=rl, datasets=[{"path": str(pairs_file)}], val_set_size=4, micro_batch_size=4, max_steps=10,
        learning_rate=1e-2, eval_steps=5,
    )  # fmt: skip
    run = api.train(config)
    lines = metrics_of(run)
    losses = [line for line in lines if "loss" in line]
    held = [line for line in lines if "eval_loss" in line]
    assert len(losses) == 10 and all(math.isfinite(line["loss"]) for line in losses)
    assert {"rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"} <= losses[0].keys()
    assert ("kl" in losses[0]) == (rl in ("dpo", "ipo", "kto"))
    assert held[-1]["eval_rewards/margins"] > 0 and held[-1]["eval_rewards/accuracies"] > 0.5
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((run / "manifest.json").read_text())["data"]["rows"] in (40, 44)


@pytest.mark.parametrize("adapter", ["lora", None])
def test_a_resumed_run_goes_on(
    adapter: str | None, pairs_file: Path, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    keys = {
        "rl": "dpo", "datasets": [{"path": str(pairs_file)}], "micro_batch_size": 3, "save_steps": 2,
        "adapter": adapter, "learning_rate": 1e-3, "lr_scheduler": "constant", "bf16": False,
    }  # fmt: skip
    whole = metrics_of(api.train(write_config(tmp_path, **keys, max_steps=4), out=tmp_path / "whole"))
    api.train(write_config(tmp_path, **keys, max_steps=2), out=tmp_path / "parts")
    parts = metrics_of(api.train(write_config(tmp_path, **keys, max_steps=4), out=tmp_path / "parts", resume=True))
    for name in ("loss", "rewards/margins"):
        first, second = ([line[name] for line in lines if "loss" in line] for lines in (whole, parts))
        assert second == pytest.approx(first, rel=1e-5, abs=1e-6) and len(first) == 4


def test_the_articles_config_trains(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.forget_notices()
    changes = ["max_steps=8", "sequence_len=400"]
    run = api.train(shared / "acceptance" / "tutorial_dpo.yml", overrides=changes, out=tmp_path / "run")
    lines = [line for line in metrics_of(run) if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) and lines[0]["rewards/margins"] == 0
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert (run / "model" / "model.safetensors").is_file()
    said = capsys.readouterr().err
    assert "are few" in said and "longer than sequence_len" in said and "learning_rate 5e-05 is high" in said


@pytest.mark.parametrize(
    ("lines", "method"),
    [
        ("rl: dpo\nrl_beta: 0.3\ndpo_label_smoothing: 0.1\nrpo_alpha: 1", Dpo(0.3, "sigmoid", 0.1, 1.0)),
        ("rl: dpo\ndpo_loss_type: [hinge]", Dpo(loss="hinge")),
        ("rl: dpo\ndpo_norm_loss: true", Dpo(loss="sigmoid_norm")),
        ("rl: ipo", Dpo(loss="ipo")),
        ("rl: orpo\norpo_alpha: 0.2", Orpo(0.2)),
        ("rl: simpo\nsimpo_gamma: 1.5\ncpo_alpha: 0.1", Simpo(2.0, 1.5, 0.1)),
        ("rl: kto\nkto_desirable_weight: 2\nkto_undesirable_weight: 0.5", Kto(0.1, 2.0, 0.5)),
    ],
)
def test_the_keys_of_a_method(lines: str, method: Any) -> None:
    assert method_of(parse_config(MINIMAL + lines)) == method


def test_what_is_refused(write_config: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dpo"):
        parse_config(MINIMAL + "rl: dppo")
    with pytest.raises(DataError, match="PairRecord"):
        api.train(write_config(tmp_path, rl="dpo"))


def test_keys_without_rl_are_warned_about() -> None:
    said = [remark.text for remark in parse_config(MINIMAL + "rl_beta: 0.2").remarks]
    assert any("rl is not set: rl_beta" in text for text in said)


def test_held_out_pairs_are_compared(
    pairs_file: Path, write_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.forget_notices()
    run = api.train(
        write_config(
            tmp_path, rl="dpo", datasets=[{"path": str(pairs_file)}], val_set_size=6, micro_batch_size=6, max_steps=9,
            num_epochs=3, learning_rate=1e-2,
        )
    )  # fmt: skip
    held = [line for line in metrics_of(run) if "eval_loss" in line]
    assert held[0]["step"] == 0 and held[0]["eval_rewards/margins"] == 0
    said = capsys.readouterr().err
    assert "held out: the chosen answer is the more likely one" in said and "held out: the reward tells" in said
