"""Full fine-tuning in bfloat16: which optimizer, how the weights move, how a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import question
from test_trainer import LENGTH, trainer_of
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments

from whet import console
from whet.data.loader import Prepared, prepare
from whet.data.records import PairRecord
from whet.data.tokens import encode_records
from whet.train.full import full_optimizer
from whet.train.masters import MasterOptimizer
from whet.train.trainer import WhetTrainer

STEPS = 20
GPU_ONLY = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _new_notices() -> None:
    console.forget_notices()


@pytest.fixture(scope="module")
def prepared(tiny_llama_dir: Path) -> Prepared:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    rows = [question(a, b) for a in range(6) for b in range(2, 9)]
    return prepare(encode_records(tokenizer, [PairRecord(r["prompt"], r["completion"]) for r in rows]), LENGTH)


def tiny(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The tiny Llama, embedding and head tied, rounded to bfloat16."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(dtype)


def arguments(folder: Path, **changes: Any) -> Any:
    return TrainingArguments(output_dir=str(folder), report_to="none", **changes)


def cosine(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    a, b = (torch.cat([t.flatten().double() for t in many]) for many in (one, other))
    return float(a @ b / (a.norm() * b.norm()))


class Masters(TrainerCallback):
    """The masters of a run at its end, before they are let go."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_train_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        masters = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
        assert isinstance(masters, MasterOptimizer)
        self.found = [masters.masters_of(parameter) for parameter in masters.pieces]


def masters_after(trainer: WhetTrainer, resume: str | None = None) -> list[torch.Tensor]:
    """Train; the masters of what is trained, in the order of the model's parameters."""
    capture = Masters()
    trainer.add_callback(capture)
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.masters is not None
    order = {parameter: number for number, parameter in enumerate(trainer.masters.pieces)}
    return [capture.found[order[parameter]] for parameter in trainer.model.parameters() if parameter in order]


def projected(update: list[torch.Tensor], target: list[torch.Tensor]) -> float:
    """Which share of ``target`` is in ``update``."""
    a, b = (torch.cat([t.flatten().double() for t in many]) for many in (update, target))
    return float(a @ b / (b @ b))


class TestChoice:
    def test_bfloat16_weights_get_masters(
        self, tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = tiny(tiny_llama_dir)
        names = {name for name, _ in model.named_parameters() if "norm" not in name}
        found = full_optimizer(model, arguments(tmp_path, weight_decay=0.3), names)
        assert isinstance(found, MasterOptimizer)
        assert [group["weight_decay"] for group in found.param_groups] == [0.3, 0.0]
        assert {p.ndim for p in found.param_groups[1]["params"]} == {1}
        count = sum(p.numel() for p in model.parameters())
        assert f"training {count:,} parameters in bfloat16 with float32 masters" in capsys.readouterr().err

    def test_tied_weights_are_trained_once(self, tiny_llama_dir: Path, tmp_path: Path) -> None:
        model = tiny(tiny_llama_dir)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        found = full_optimizer(model, arguments(tmp_path), set())
        assert found is not None
        assert sum(sum(map(len, pieces)) for pieces in found.pieces.values()) == sum(
            p.numel() for p in model.parameters()
        )

    def test_an_optimizer_of_whole_matrices_gets_float32(
        self, tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = tiny(tiny_llama_dir)
        assert full_optimizer(model, arguments(tmp_path, optim="adafactor"), set()) is None
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert "in float32: adafactor cannot" in capsys.readouterr().err

    def test_float32_weights_are_left_to_transformers(
        self, tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert full_optimizer(tiny(tiny_llama_dir, torch.float32), arguments(tmp_path), set()) is None
        assert "parameters in float32" in capsys.readouterr().err

    @pytest.mark.parametrize("optim", ["sgd", "adamw_torch_fused", "rmsprop"])
    def test_other_optimizers_move_masters(
        self, optim: str, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
    ) -> None:
        model = tiny(tiny_llama_dir)
        before = [p.detach().float().clone() for p in model.parameters()]
        trainer = trainer_of(model, prepared, tmp_path, optim=optim, max_steps=2, learning_rate=1e-4)
        assert all((a != b).any() for a, b in zip(masters_after(trainer), before, strict=True))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_move_as_in_float32(accumulate: int, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared) -> None:
    """At a rate of 1e-6; the control is bfloat16 weights under torch's AdamW."""
    options: dict[str, Any] = {"max_steps": STEPS, "max_grad_norm": 1.0, "accumulate": accumulate, "micro": 4}
    wide = trainer_of(tiny(tiny_llama_dir, torch.float32), prepared, tmp_path / "wide", **options)
    start = [p.detach().clone() for p in wide.model.parameters()]
    wide.train()
    target = [p.detach() - s for p, s in zip(wide.model.parameters(), start, strict=True)]
    mine = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path / "mine", **options)
    masters = masters_after(mine)
    assert cosine([m - s for m, s in zip(masters, start, strict=True)], target) > 0.99
    nearest = [m.bfloat16().float() - s for m, s in zip(masters, start, strict=True)]
    left = [p.detach().float() - s for p, s in zip(mine.model.parameters(), start, strict=True)]
    assert projected(nearest, target) < 0.6 and 0.8 < projected(left, target) < 1.2
    plain = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path / "plain", **options)
    plain.optimizer = torch.optim.AdamW(plain.model.parameters(), lr=1e-6, weight_decay=0.0)
    plain.train()
    assert plain.masters is None
    assert cosine([p.detach().float() - s for p, s in zip(plain.model.parameters(), start, strict=True)], target) < 0.5


def test_a_resumed_run_is_the_uninterrupted_one(tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared) -> None:
    options: dict[str, Any] = {"max_steps": 6, "max_grad_norm": 1.0, "accumulate": 2, "learning_rate": 1e-5}
    options |= {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "cosine"}
    whole = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path / "whole", **options)
    masters = masters_after(whole)
    again = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path / "again", **options)
    resumed = masters_after(again, str(tmp_path / "whole" / "checkpoint-3"))
    assert all(map(torch.equal, masters, resumed))
    assert all(map(torch.equal, whole.model.parameters(), again.model.parameters()))
    saved = [load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("whole", "again")]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    assert {tensor.dtype for tensor in saved[0].values()} == {torch.bfloat16}
    from_disk = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-6")
    assert from_disk.dtype == torch.bfloat16
    assert all(torch.equal(p.bfloat16(), m) for p, m in zip(masters, from_disk.parameters(), strict=True))


@pytest.mark.gpu
@GPU_ONLY
@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adamw_torch_8bit"])
def test_optimizers_of_libraries_over_masters(
    optim: str, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
) -> None:
    """They move the masters as the float32 AdamW does, as far as 8-bit moments can, and go on from a checkpoint."""
    pytest.importorskip("torchao" if "torch" in optim else "bitsandbytes")
    options: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "micro": 4, "bf16": True}
    exact = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path / "exact", **options)
    start = [p.detach().float().clone() for p in exact.model.parameters()]
    reference = masters_after(exact)
    found = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path / "found", optim=optim, **options)
    masters = masters_after(found)
    updates = [[m - s for m, s in zip(one, start, strict=True)] for one in (masters, reference)]
    assert cosine(*updates) > 0.95
    again = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path / "again", optim=optim, **options)
    resumed = masters_after(again, str(tmp_path / "found" / "checkpoint-3"))
    for one, other in zip(masters, resumed, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)
