"""Runs in which the engine trains the weights themselves: checkpoints, going on, and what is left at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import metrics_of
from test_full import masters_after
from test_full import prepared as prepared  # a fixture
from test_trainer import trainer_of
from transformers import AutoModelForCausalLM, TrainerCallback

from whet import api, console
from whet.data.loader import Prepared
from whet.models.adapters import add_lora
from whet.train.trainer import WhetTrainer

RUN: dict[str, Any] = {"max_steps": 6, "max_grad_norm": 1.0, "accumulate": 2, "micro": 4, "learning_rate": 1e-4}
RUN |= {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "cosine", "logging_steps": 1}
DTYPES = [torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def _new_notices() -> None:
    console.forget_notices()


@pytest.fixture(params=["llama", "qwen2"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Embedding and head tied, or three biases that are views of one tensor."""
    found: Path = request.getfixturevalue(f"tiny_{request.param}_dir")
    return found


def model_of(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


class WeightsAtSaves(TrainerCallback):
    """Copies of a model's weights when a checkpoint was written, by step."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, torch.Tensor]] = {}
        self.shared = False

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        named = dict(model.named_parameters())
        self.found[state.global_step] = {name: p.detach().clone() for name, p in named.items()}
        self.shared |= len({p.untyped_storage().data_ptr() for p in named.values()}) < len(named)


def losses(trainer: WhetTrainer) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in trainer.state.log_history if "loss" in line}


def ends(trainer: WhetTrainer, resume: Path | None = None) -> list[torch.Tensor]:
    """Train; the weights, in float32 their masters."""
    if next(trainer.model.parameters()).dtype == torch.bfloat16:
        return masters_after(trainer, str(resume) if resume else None)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checkpoint_holds_every_weight(folder: Path, dtype: torch.dtype, tmp_path: Path, prepared: Prepared) -> None:
    """Written while the weights are views of the engine's buffers."""
    seen = WeightsAtSaves()
    trainer = trainer_of(model_of(folder, dtype), prepared, tmp_path, **RUN, callbacks=[seen])
    trainer.train()
    assert trainer.forward == "engine" and seen.shared and list(seen.found) == [2, 4, 6]
    for step, weights in seen.found.items():
        place = tmp_path / f"checkpoint-{step}"
        stored = load_file(place / "model.safetensors")
        assert stored.keys() == weights.keys()
        size = sum(p.numel() * p.element_size() for p in weights.values())
        assert size <= (place / "model.safetensors").stat().st_size < 1.01 * size + 2**16  # each weight once
        loaded = dict(model_of(place, dtype).named_parameters())
        assert loaded.keys() == weights.keys()
        for name, weight in weights.items():
            assert torch.equal(stored[name], weight) and torch.equal(loaded[name], weight), (step, name)
    assert any((seen.found[2][name] != seen.found[4][name]).any() for name in seen.found[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_resumed_run_is_the_uninterrupted_one(
    folder: Path, dtype: torch.dtype, tmp_path: Path, prepared: Prepared
) -> None:
    whole = trainer_of(model_of(folder, dtype), prepared, tmp_path / "whole", **RUN)
    wanted = ends(whole)
    again = trainer_of(model_of(folder, dtype), prepared, tmp_path / "again", **RUN)
    found = ends(again, tmp_path / "whole" / "checkpoint-4")
    assert whole.forward == again.forward == "engine"
    assert all(map(torch.equal, found, wanted))
    assert losses(again) == losses(whole) and len(losses(whole)) == 6
    assert all(map(torch.equal, again.model.parameters(), whole.model.parameters()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_after_training_the_model_is_its_user_s(
    folder: Path, dtype: torch.dtype, tmp_path: Path, prepared: Prepared
) -> None:
    """Weights of their own memory, that may be written, saved, moved, and generate."""
    trainer = trainer_of(model_of(folder, dtype), prepared, tmp_path, **{**RUN, "save_strategy": "no"})
    trainer.train()
    model, parameters = trainer.model, list(trainer.model.parameters())
    assert trainer.engine is None and trainer.forward == "engine"
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters)
    assert all(p.untyped_storage().nbytes() == p.numel() * p.element_size() for p in parameters)
    assert all(p.is_contiguous() and p.requires_grad for p in parameters)
    model.save_pretrained(tmp_path / "saved")
    loaded = model_of(tmp_path / "saved", dtype)
    assert all(map(torch.equal, loaded.parameters(), parameters))
    ids = torch.tensor([[5, 6, 7]])
    written = model.eval().generate(ids, max_new_tokens=6, do_sample=False)
    assert written.shape[1] > 3 and torch.equal(written, loaded.generate(ids, max_new_tokens=6, do_sample=False))
    assert model.double()(input_ids=ids).logits.dtype == torch.float64


def test_training_twice(tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared) -> None:
    """The engine is made again, and takes the weights as the first training left them."""
    trainer = trainer_of(model_of(tiny_llama_dir, torch.float32), prepared, tmp_path, **{**RUN, "save_strategy": "no"})
    trainer.train()
    first = losses(trainer)
    trainer.train()
    assert trainer.forward == "engine" and trainer.engine is None
    assert losses(trainer)[1] < first[1]


class FailsOnce(TrainerCallback):
    """An error between two micro-batches of the first step."""

    def __init__(self) -> None:
        self.failed = False

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        if not self.failed:
            self.failed = True
            raise RuntimeError("on purpose")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("apart")
def test_a_step_that_failed_leaves_no_gradients(
    dtype: torch.dtype, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
) -> None:
    """Nor does a step that Ctrl-C ended, when training is called again."""
    short = {**RUN, "save_strategy": "no", "max_steps": 2}
    plain, again = (
        trainer_of(model_of(tiny_llama_dir, dtype), prepared, tmp_path, **short, callbacks=callbacks)
        for callbacks in ([], [FailsOnce()])
    )
    with pytest.raises(RuntimeError, match="on purpose"):
        again.train()
    again.train()
    plain.train()
    norms = [[line["grad_norm"] for line in run.state.log_history if "grad_norm" in line] for run in (plain, again)]
    assert len(norms[0]) == 2 and norms[0] == norms[1]
    assert all(map(torch.equal, again.model.parameters(), plain.model.parameters()))


def test_weights_freed_after_the_trainer_was_made_are_trained(
    tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
) -> None:
    model = model_of(tiny_llama_dir, torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1" in name)
    trainer = trainer_of(model, prepared, tmp_path, **{**RUN, "save_strategy": "no"})
    model.requires_grad_(True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train()
    assert trainer.forward == "engine"
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


def test_weights_replaced_after_the_trainer_was_made_are_trained(
    tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
) -> None:
    model = model_of(tiny_llama_dir, torch.float32)
    trainer = trainer_of(model, prepared, tmp_path, **{**RUN, "save_strategy": "no"})
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict({name: weight.clone() for name, weight in before.items()}, assign=True)
    trainer.train()
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_trainers_of_a_model(dtype: torch.dtype, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared) -> None:
    """Made together or one after the other, they train one after the other: neither takes the other's gradients."""
    found = []
    for together in (True, False):
        model = model_of(tiny_llama_dir, dtype)
        make = partial(trainer_of, model, prepared, tmp_path, **{**RUN, "save_strategy": "no"})
        first = make()
        second = make() if together else None
        first.train()
        second = second or make()
        second.train()
        found.append((losses(first), losses(second), list(model.parameters())))
    (one, two, mine), (_, other, theirs) = found
    assert two == other and two[1] < one[1]
    assert all(map(torch.equal, mine, theirs))


@pytest.mark.parametrize("adapters", [False, True])
def test_norms_of_another_dtype_are_for_the_own_forward(
    adapters: bool, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
) -> None:
    """Without autocast such a model cannot run at all."""
    model = model_of(tiny_llama_dir, torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.float() if "norm" in name else parameter.data
    model = add_lora(model, rank=4) if adapters else model
    trainer = trainer_of(model, prepared, tmp_path, **{**RUN, "save_strategy": "no"}, bf16=True, use_cpu=True)
    trainer.train()
    why = "norms have another dtype than the other weights, which needs autocast"
    assert trainer.forward == f"the model's own: {why}" and losses(trainer)[6] < losses(trainer)[1]


class TestOptimizers:
    @pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adagrad", "adafactor"])
    def test_float32_weights_take_any(
        self, optim: str, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
    ) -> None:
        """One that looks at whole matrices sees them as they are: views, but contiguous."""
        found = []
        for change in (lambda model: model, _no_engine):
            model = change(model_of(tiny_llama_dir, torch.float32))
            before = [p.detach().clone() for p in model.parameters()]
            trainer = trainer_of(model, prepared, tmp_path, **{**RUN, "save_strategy": "no", "optim": optim})
            trainer.train()
            found.append((trainer.forward, [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]))
        (engine, mine), (own, plain) = found
        assert engine == "engine" and "attention dropout" in own
        a, b = (torch.cat([change.flatten() for change in some]) for some in (mine, plain))
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999

    def test_whole_matrices_of_bfloat16_weights_are_for_the_own_forward(
        self, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = model_of(tiny_llama_dir, torch.bfloat16)
        trainer = trainer_of(model, prepared, tmp_path, **{**RUN, "save_strategy": "no", "optim": "adafactor"})
        why = "the optimizer adafactor works on whole matrices, and weights become float32 for it"
        assert trainer.engine is None and trainer.forward == f"the model's own: {why}"
        trainer.train()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        said = capsys.readouterr().err
        assert f"the model's own forward is used, not the engine: {why}" in said
        assert "parameters in float32: adafactor cannot work on masters of bfloat16 weights" in said

    @pytest.mark.parametrize("part", ["norm", "embed_tokens", "o_proj", "bias"])
    def test_whole_matrices_of_a_part(
        self, part: str, tiny_qwen2_dir: Path, tmp_path: Path, prepared: Prepared
    ) -> None:
        """What is frozen becomes float32 too: there is no autocast."""
        model = model_of(tiny_qwen2_dir, torch.bfloat16)
        before = {name: p.requires_grad_(part in name).float() for name, p in model.named_parameters()}
        trainer = trainer_of(model, prepared, tmp_path, **{**RUN, "save_strategy": "no", "optim": "adafactor"})
        trainer.train()
        assert trainer.forward.startswith("the model's own: ")
        assert {name for name, p in model.named_parameters() if (p != before[name]).any()} == {
            name for name in before if part in name
        }

    @pytest.mark.parametrize("adapters", [[], ["embed_tokens", "lm_head"]])
    def test_whole_matrices_of_adapters(
        self, adapters: list[str], tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
    ) -> None:
        model = add_lora(model_of(tiny_llama_dir, torch.bfloat16), rank=4, modules_to_save=adapters)
        trainer = trainer_of(model, prepared, tmp_path, **{**RUN, "save_strategy": "no", "optim": "adafactor"})
        trainer.train()
        assert (trainer.forward == "engine") == (not adapters)
        frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
        assert frozen == {torch.float32 if adapters else torch.bfloat16}

    def test_mixed_precision_is_for_the_own_forward(
        self, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The engine has no copies of weights in another dtype."""
        trainer = trainer_of(model_of(tiny_llama_dir, torch.float32), prepared, tmp_path, bf16=True, use_cpu=True)
        why = (
            "weights are float32 and training is in bfloat16; load them as bfloat16: float32 masters keep small updates"
        )
        assert trainer.engine is None and trainer.forward == f"the model's own: {why}"
        assert f"the model's own forward is used, not the engine: {why}" in capsys.readouterr().err
        trainer.train()
        assert trainer.state.global_step == 1


def _no_engine(model: Any) -> Any:
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 1e-9
    return model


@pytest.mark.parametrize("bf16", [True, False])
def test_a_run_from_a_config(bf16: bool, write_config: Callable[..., Path], tmp_path: Path) -> None:
    """Resumed from its middle it ends the same; the manifest says what ran."""
    keys: dict[str, Any] = {"adapter": None, "save_steps": 2, "gradient_accumulation_steps": 2, "logging_steps": 1}
    config = write_config(tmp_path, **keys, bf16=bf16, max_steps=4)
    whole = api.train(config)
    shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "checkpoint-4")
    again = api.train(config, out=tmp_path / "again", resume=True)
    first, second = ([line["loss"] for line in metrics_of(run) if "loss" in line] for run in (whole, again))
    assert len(first) == 4 and second == [*first, *first[2:]]
    stored, loaded = (load_file(run / "model" / "model.safetensors") for run in (whole, again))
    assert stored.keys() == loaded.keys() and all(torch.equal(stored[name], loaded[name]) for name in stored)
    manifest = json.loads((again / "manifest.json").read_text())
    assert manifest["forward"] == "engine" and manifest["memory"]["layers_keep"].startswith("2 x none")
