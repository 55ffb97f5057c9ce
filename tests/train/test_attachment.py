"""Which of a model's trainers has its weights: a notebook's cell that makes a trainer may run twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_full import prepared as prepared  # a fixture
from test_trainer import trainer_of
from transformers import AutoModelForCausalLM, TrainerCallback

from whet.data.loader import Prepared
from whet.models.adapters import add_lora
from whet.train.trainer import WhetTrainer

RUN: dict[str, Any] = {"use_cpu": True, "max_steps": 2, "learning_rate": 1e-3, "logging_steps": 1}


@pytest.fixture
def model(tiny_llama_dir: Path) -> Any:
    return add_lora(AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32), rank=2, seed=1)


def held(model: Any) -> set[int]:
    """Blocks of memory that the frozen projections lie in, by layer and group."""
    named = model.named_parameters()
    return {p.untyped_storage().data_ptr() for name, p in named if "base_layer.weight" in name}


def losses(trainer: WhetTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_a_new_trainer_takes_the_weights_over(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    """The one before gives its engine back, and attaches again when it trains."""
    first = trainer_of(model, prepared, tmp_path, **RUN)
    assert first.engine is not None
    second = trainer_of(model, prepared, tmp_path, **RUN)
    assert first.engine is None and second.engine is not None and second.forward == first.forward == "engine"
    buffers = {g.storage.buffer.untyped_storage().data_ptr() for layer in second.engine.layers for g in layer.groups}
    assert held(model) == buffers
    second.train()
    assert losses(first) == [] and len(losses(second)) == 2
    first.train()
    assert first.forward == "engine" and losses(first)[0] < losses(second)[0]


def test_validations_take_turns(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    first = trainer_of(model, prepared, tmp_path, **RUN)
    wanted = first.evaluate()["eval_loss"]
    second = trainer_of(model, prepared, tmp_path, **RUN)
    assert first.evaluate()["eval_loss"] == second.evaluate()["eval_loss"] == wanted
    assert first.forward == "engine"


def test_a_training_keeps_them(model: Any, prepared: Prepared, tmp_path: Path) -> None:
    """Another trainer that is made in its midst has an engine of its own, over the same weights."""
    others: list[WhetTrainer] = []

    class Makes(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            others.append(trainer_of(model, prepared, tmp_path, **RUN))
            assert trainer.engine is not None

    trainer = trainer_of(model, prepared, tmp_path, callbacks=[Makes()], **RUN)
    trainer.train()
    assert len(others) == 2 and others[0].engine is None and others[1].engine is not None
    alone = add_lora(AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32), rank=2, seed=1)
    wanted = trainer_of(alone, prepared, tmp_path, **RUN)
    wanted.train()
    assert losses(trainer) == losses(wanted)
