"""The reference that is computed ahead: exact at step 0, kept on the disk, resumed, and refused when stale."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_pairs import pair
from transformers import AutoModelForCausalLM

from whet import console
from whet.data.answer_rows import AnswerRows
from whet.engine.kernels.nf4 import dequantise_nf4
from whet.engine.quantised import quantise_nf4, read_nf4
from whet.errors import TrainingError
from whet.models.adapters import add_lora
from whet.train.preference.dpo import Dpo
from whet.train.preference.kto import Kto
from whet.train.preference.objective import Kept
from whet.train.preference.reference import weights_hash
from whet.train.preference.rows import pair_rows

LN2 = math.log(2)


class FourBit(torch.nn.Linear):
    """A frozen linear layer that holds its weight as bitsandbytes does: NF4, packed."""

    def __init__(self, dense: torch.nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=False, device="meta")
        nf4 = quantise_nf4(dense.weight.detach())
        self.weight = torch.nn.Parameter(nf4.packed[:, None].clone(), requires_grad=False)
        state = {"quant_type": "nf4", "absmax": nf4.absmax, "shape": nf4.shape, "dtype": nf4.dtype}
        self.weight.quant_state = type("State", (), {**state, "blocksize": nf4.block, "state2": None})()
        self.bias = dense.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nf4: Any = read_nf4(self)
        dense = torch.empty(nf4.shape, dtype=nf4.dtype)
        dequantise_nf4(nf4, dense)
        return torch.nn.functional.linear(x.to(nf4.dtype), dense, self.bias).to(x.dtype)


@pytest.fixture
def model_of(make_model: Callable[..., Any], tiny_llama_dir: Path) -> Callable[[str], Any]:
    """``model_of("fresh bfloat16")``, ``"full float32"``, ``"full own float32"`` (no engine) or ``"nf4"``."""

    def make(name: str) -> Any:
        kind, _, dtype = name.rpartition(" ")
        if name != "nf4":
            return make_model(kind, getattr(torch, dtype))
        base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.bfloat16)
        for layer in base.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for name, linear in list(part.named_children()):
                    if isinstance(linear, torch.nn.Linear):
                        setattr(part, name, FourBit(linear))
        return add_lora(base.requires_grad_(False), rank=4)

    return make


def first_step(trainer: Any) -> dict[str, float]:
    trainer.train()
    return next(line for line in trainer.state.log_history if "loss" in line)


KINDS = ["fresh", "fresh own", "full", "full own"]
MODELS = [*(f"{kind} {dtype}" for kind in KINDS for dtype in ("float32", "bfloat16")), "nf4"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reference", ["online", "computed", "cached"])
@pytest.mark.usefixtures("apart")
def test_step_0_has_no_margin(
    name: str,
    reference: str,
    model_of: Callable[[str], Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    tmp_path: Path,
) -> None:
    """In micro-batches of three: the cached reference was computed in the same ones."""
    for _ in range(2 if reference == "cached" else 1):
        trainer = make_trainer(model_of(name), pairs, Dpo(0.1), micro=3, accumulate=3)
        assert (trainer.engine is None) == ("own" in name)
        trainer.objective.kept = Kept(tmp_path / "reference", ahead=reference != "online")
        line = first_step(trainer)
        assert line["loss"] == pytest.approx(LN2, abs=1e-6)
        assert line["rewards/margins"] == 0 and line["rewards/chosen"] == 0 and line["kl"] == 0
    assert (tmp_path / "reference").exists() == (reference != "online" or name.startswith("full"))


@pytest.mark.parametrize(
    ("name", "bar"),
    [
        ("fresh float32", 1e-5),
        *((f"{k} {d}", b) for k in KINDS[2:] for d, b in (("float32", 1e-5), ("bfloat16", 0.05))),
    ],
)
@pytest.mark.usefixtures("apart")
def test_another_packing(
    name: str, bar: float, model_of: Callable[[str], Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    """Computed one pair at a time, used for eight."""
    alone = make_trainer(model_of(name), pairs, Dpo(0.1), micro=1, accumulate=8)
    alone.objective.kept = Kept(ahead=True)
    first_step(alone)
    together = make_trainer(model_of(name), pairs, Dpo(0.1), micro=8, flat=True)
    together.train_dataset.reference = alone.train_dataset.reference
    line = first_step(together)
    assert abs(line["loss"] - LN2) <= bar and abs(line["rewards/margins"]) <= bar


@pytest.mark.parametrize("name", ["full float32", "full own float32"])
@pytest.mark.usefixtures("apart")
def test_an_interrupted_pass_goes_on(
    name: str,
    model_of: Callable[[str], Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = make_trainer(model_of(name), pairs, Dpo(0.1), accumulate=8)
    first_step(whole)
    trainer = make_trainer(model_of(name), pairs, Dpo(0.1), accumulate=8)
    trainer.objective.kept = Kept(tmp_path / "reference")
    load, seen = trainer._load, []

    def stopping(items: list[Any]) -> Any:
        seen.append(items)
        trainer.interrupt.interrupted = len(seen) > 4  # what Ctrl-C sets
        return load(items)

    monkeypatch.setattr(trainer, "_load", stopping)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    values = tmp_path / "reference" / "train" / "values.bin"
    values.write_bytes(values.read_bytes()[:-2])  # and the machine lost power while it wrote
    console.forget_notices()
    again = make_trainer(model_of(name), pairs, Dpo(0.1), accumulate=8)
    again.objective.kept = Kept(tmp_path / "reference")
    assert first_step(again)["rewards/margins"] == 0
    assert "goes on: 2 of 8 batches" in capsys.readouterr().err
    for one, other in zip(again.train_dataset.reference, whole.train_dataset.reference, strict=True):
        assert torch.equal(one, other)


def test_a_stale_reference_is_never_used(
    model_of: Callable[[str], Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    tokenizer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(rows: AnswerRows, micro: int = 1, changed: bool = False, resumed: bool = False) -> str:
        model = model_of("full float32")
        if changed:
            with torch.no_grad():
                model.model.layers[1].mlp.down_proj.weight[0, 0] += 1e-3
        trainer = make_trainer(model, rows, Dpo(0.1), micro=micro, accumulate=-(-len(rows) // micro))
        trainer.objective.kept = Kept(tmp_path)
        trainer._resumed = resumed
        if resumed:
            trainer._prepare_objective(trainer.train_dataset)
        else:
            assert first_step(trainer)["rewards/margins"] == 0
        return capsys.readouterr().err

    assert "reference in" not in run(pairs)
    assert f"the reference in {tmp_path / 'train'} is used" in run(pairs)
    assert "computed anew: the weights of the base model changed" in run(pairs, changed=True)
    with pytest.raises(TrainingError, match=r"the weights of the base model(.|\n)*changed(.|\n)*without --resume"):
        run(pairs, resumed=True)
    other = pair_rows(tokenizer, [pair(n + 1) for n in range(8)], 128)
    said = run(other)
    assert "the rows, the tokenizer or the chat template changed" in said
    assert "how many micro-batches go through at once changed" in run(dataclasses.replace(other), micro=4)


def test_kto_keeps_its_other_answers(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], judged: AnswerRows, tmp_path: Path
) -> None:
    lines = []
    for kept in (Kept(), Kept(tmp_path, ahead=True), Kept(tmp_path, ahead=True)):
        trainer = make_trainer(make_model("lora"), judged, Kto(0.3), micro=4, accumulate=3)
        trainer.objective.kept = kept
        lines.append(first_step(trainer))
    for line in lines[1:]:
        assert line["loss"] == pytest.approx(lines[0]["loss"], rel=1e-6)
        assert line["kl_estimate"] == pytest.approx(lines[0]["kl_estimate"], abs=1e-6)
    facts = json.loads((tmp_path / "train" / "facts.json").read_text())
    keys = {"weights", "tokens", "batches", "packing", "precision", "forward", "device", "software", "items"}
    assert set(facts) == keys


def test_the_hash_is_of_the_base_alone(make_model: Callable[..., Any]) -> None:
    plain, fresh, trained = (weights_hash(make_model(kind)) for kind in ("full", "fresh", "lora"))
    assert fresh == trained and len(plain) == 64


@pytest.mark.parametrize("name", ["full float32", "full own float32"])
def test_validation_has_its_reference_before_training(
    name: str, model_of: Callable[[str], Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    """Full fine-tuning: after the run nobody could compute it any more."""
    trainer = make_trainer(model_of(name), pairs, Dpo(0.5), micro=8, max_steps=3, learning_rate=1e-3)
    trainer.train()
    assert trainer.evaluate()["eval_rewards/margins"] > 0
