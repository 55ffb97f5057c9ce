"""Whole runs whose weights stay in main memory: the same losses as without.

The device is the CPU, to which the layers' weights are copied as to any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import metrics_of, question

from whet import FastLanguageModel, SFTConfig, SFTTrainer, api
from whet.config import load_config
from whet.engine.forward import Engine
from whet.engine.streamed import Streamed
from whet.errors import ModelError, WhetError
from whet.train.plan import plan_run
from whet.train.streaming import keep_in_main_memory, stays_in_main_memory


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """As on a machine with a GPU; the models of runs that are streamed."""
    models: list[Any] = []

    def keep(model: Any, device: torch.device) -> None:
        keep_in_main_memory(model, device)
        models.append(model)

    monkeypatch.setattr("whet.train.sft.keep_in_main_memory", keep)
    for place in ("whet.train.sft.streams_here", "whet.notebook.streams_here"):
        monkeypatch.setattr(place, lambda asked: asked)
    monkeypatch.setattr("whet.train.engine.Engine", partial(Engine, streamed=True))
    return models


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(run) if "loss" in line]


def pairs_file(folder: Path) -> Path:
    rows = [question(a, b) for a in range(6) for b in range(2, 4)]
    pairs = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": f"no {r['completion']} no"} for r in rows]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.mark.parametrize("method", ["sft", "dpo", "reward"])
def test_the_losses_of_weights_on_the_device(
    tmp_path: Path, write_config: Callable[..., Path], method: str, request: pytest.FixtureRequest, apart: None
) -> None:
    changes: dict[str, Any] = {"max_steps": 3, "gradient_accumulation_steps": 2}
    if method != "sft":
        changes["datasets"] = [{"path": str(pairs_file(tmp_path))}]
        changes |= {"reward_model": True} if method == "reward" else {"rl": "dpo"}
    wanted = losses(api.train(write_config(tmp_path, **changes, output_dir=str(tmp_path / "plain"))))
    models = request.getfixturevalue("streamed")
    run = api.train(write_config(tmp_path, **changes, stream_weights=True, output_dir=str(tmp_path / "streamed")))
    assert losses(run) == wanted and len(wanted) == 3 and len(models) == 1
    assert json.loads((run / "manifest.json").read_text())["forward"] == "engine"


def test_a_run_goes_on_from_a_checkpoint(
    tmp_path: Path, write_config: Callable[..., Path], streamed: list[Any], apart: None
) -> None:
    keys: dict[str, Any] = {"stream_weights": True, "save_steps": 2, "lr_scheduler": "constant"}
    whole = api.train(write_config(tmp_path, **keys, max_steps=4, output_dir=str(tmp_path / "whole")))
    half = write_config(tmp_path, **keys, max_steps=2, output_dir=str(tmp_path / "half"))
    api.train(half)
    config = write_config(tmp_path, **keys, max_steps=4, output_dir=str(tmp_path / "half"))
    assert losses(api.train(config, resume=True))[2:] == pytest.approx(losses(whole)[2:], rel=1e-6)


def test_a_plan_says_where_the_weights_are(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    found = plan_run(load_config(write_config(tmp_path, stream_weights=True)), gpu="16GiB")
    choices = [row[0] for row in found._choices()]
    assert (
        sum("16-bit weights, streamed" in choice for choice in choices) == len(choices) - 4
    )  # the others: dense and 4 bits
    assert plan_run(load_config(write_config(tmp_path, stream_weights=False)), gpu="16GiB").plan != found.plan


def notebook(folder: Path, adapter: bool = True, **settings: Any) -> tuple[Any, Any, Any]:
    model, tokenizer = FastLanguageModel.from_pretrained("starter", max_seq_length=256, **settings)
    model = FastLanguageModel.get_peft_model(model, r=4) if adapter else model
    args = SFTConfig(output_dir=str(folder), max_steps=2, save_strategy="no", report_to="none", logging_steps=1)
    rows = [question(a, b) for a in range(4) for b in range(2, 6)]
    return model, tokenizer, SFTTrainer(model, tokenizer, args=args, train_dataset=rows)


def test_in_a_notebook_the_models_own_forward_works_before_and_after(
    tmp_path: Path, streamed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer, trainer = notebook(tmp_path, stream_weights=True)
    assert stays_in_main_memory(model) and trainer.is_model_parallel is False
    groups = [group for layer in trainer.engine.layers for group in layer.groups]
    assert all(isinstance(group.storage, Streamed) for group in groups)
    assert trainer.memory is None or trainer.memory.planner.shape.storage == "streamed"
    trainer.train()
    assert trainer.memory.planner.shape.storage == "streamed"
    assert "multiple devices" not in capsys.readouterr().err
    ids_BT = tokenizer("How many orders", return_tensors="pt").input_ids
    model.eval()
    with torch.no_grad():
        found = model(input_ids=ids_BT).logits
        answer = model.generate(input_ids=ids_BT, max_new_tokens=4, do_sample=False)
        for layer in model.get_base_model().model.layers:
            layer._forward_pre_hooks.clear()
            layer._forward_hooks.clear()
        assert torch.equal(model(input_ids=ids_BT).logits, found)
        assert torch.equal(model.generate(input_ids=ids_BT, max_new_tokens=4, do_sample=False), answer)


def test_a_trained_adapter_goes_on_streamed(tmp_path: Path, streamed: list[Any]) -> None:
    model, tokenizer, _ = notebook(tmp_path, stream_weights=True)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    again, _ = FastLanguageModel.from_pretrained(str(tmp_path / "adapter"), stream_weights=True)
    assert stays_in_main_memory(again)


def test_without_an_adapter_there_is_no_training(tmp_path: Path, streamed: list[Any]) -> None:
    """All of the model would be moved to the GPU, and be trained."""
    with pytest.raises(ModelError, match=r"call FastLanguageModel\.get_peft_model"):
        notebook(tmp_path, adapter=False, stream_weights=True)


def test_without_an_engine_there_is_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own forward has no gradients where weights come and go."""
    monkeypatch.setattr("whet.notebook.streams_here", lambda asked: asked)
    monkeypatch.setattr("whet.train.engine.self_check", lambda *_: "layer 0 is off")
    with pytest.raises(ModelError, match="cannot be streamed: layer 0 is off"):
        notebook(tmp_path, stream_weights=True)


@pytest.mark.parametrize("other", [{"full_finetuning": True}, {"load_in_8bit": True}, {"device_map": "auto"}])
def test_what_contradicts_it_in_a_notebook(other: dict[str, Any]) -> None:
    with pytest.raises(WhetError, match="stream_weights with full_finetuning"):
        FastLanguageModel.from_pretrained("starter", stream_weights=True, **other)
