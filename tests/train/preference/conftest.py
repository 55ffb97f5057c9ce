"""Pairs of a tiny model that the tests of preference training share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import without_engine
from tests_pairs import pair
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from whet.data.answer_loader import AnswerDataset, CollateAnswers
from whet.data.answer_rows import AnswerRows
from whet.models.adapters import add_lora
from whet.train.preference.objective import PreferenceObjective
from whet.train.preference.rows import label_rows, pair_rows
from whet.train.trainer import WhetTrainer


@pytest.fixture(scope="session")
def tokenizer(tiny_llama_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="session")
def pairs(tokenizer: Any) -> AnswerRows:
    return pair_rows(tokenizer, [pair(n) for n in range(8)], 128)


@pytest.fixture(scope="session")
def judged(tokenizer: Any) -> AnswerRows:
    return label_rows(tokenizer, [pair(n) for n in range(6)], 128)


@pytest.fixture
def make_model(tiny_llama_dir: Path) -> Callable[..., Any]:
    """``make_model("lora")`` has adapters that do something; ``"fresh"`` ones that do nothing yet; ``"full"`` none.

    With ``"lora own"``, ``"fresh own"`` and ``"full own"`` the model's own forward runs, not the engine.
    """

    def make(kind: str, dtype: torch.dtype = torch.float32) -> Any:
        base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=dtype)
        kind, _, own = kind.partition(" ")
        if kind == "full":
            return without_engine(base) if own else base
        return add_lora(base, rank=4, init_lora_weights=kind == "fresh", dropout=1e-9 if own else 0.0)

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., WhetTrainer]:
    """``make_trainer(model, rows, method, micro=1, accumulate=1, flat=None)``; rows are flat as in a run by default."""

    def make(
        model: Any,
        rows: AnswerRows,
        method: Any,
        micro: int = 1,
        accumulate: int = 1,
        flat: bool | None = None,
        **changes: Any,
    ) -> WhetTrainer:
        keys = {"max_steps": 1, "max_grad_norm": 0, "learning_rate": 1e-3, "save_strategy": "no", "logging_steps": 1}
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=micro,
            per_device_eval_batch_size=micro,
            gradient_accumulation_steps=accumulate,
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=False,
            lr_scheduler_type="constant",
            **{**keys, **changes},
        )
        collate = CollateAnswers(3)
        trainer = WhetTrainer(
            model=model,
            args=arguments,
            train_dataset=AnswerDataset(rows),
            eval_dataset=AnswerDataset(rows),
            collate=collate,
            tokenizer=None,
            objective=PreferenceObjective(method),
        )
        collate.flat = trainer.engine is not None if flat is None else flat
        return trainer

    return make
