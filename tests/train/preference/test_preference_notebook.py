"""``DPOTrainer`` and its kin, called as TRL's users call them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests_pairs import pair

import whet
from whet.errors import WhetError


def rows(count: int = 8) -> list[dict[str, Any]]:
    return [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in map(pair, range(count))]


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 10, "learning_rate": 1e-2,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", **more,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["DPO", "ORPO", "CPO", "KTO"])
def test_trainers(name: str, make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> None:
    args = getattr(whet, f"{name}Config")(**settings(tmp_path, beta=0.5))
    trainer = getattr(whet, f"{name}Trainer")(
        model=make_model("fresh"), args=args, train_dataset=rows(), eval_dataset=rows(), processing_class=tokenizer
    )
    trainer.train()
    held = trainer.evaluate()
    assert held["eval_rewards/margins"] > 0 and math.isfinite(held["eval_loss"])


def test_what_is_refused(make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(WhetError, match="beta"):
        whet.DPOConfig(output_dir=str(tmp_path), betta=0.1)
    with pytest.raises(WhetError, match="loss_type 'aot'"):
        whet.DPOConfig(output_dir=str(tmp_path), loss_type="aot").method()
    model = make_model("fresh")
    with pytest.raises(WhetError, match="ref_model"):
        whet.DPOTrainer(model=model, ref_model=make_model("full"), train_dataset=rows(), tokenizer=tokenizer)
    with pytest.raises(WhetError, match="TrainingArguments"):
        from transformers import TrainingArguments

        whet.DPOTrainer(model, args=TrainingArguments(str(tmp_path)), train_dataset=rows(), tokenizer=tokenizer)


def test_losses_of_dpo(tmp_path: Path) -> None:
    method = whet.DPOConfig(output_dir=str(tmp_path), loss_type=["ipo"], beta=0.3).method()
    assert method.loss == "ipo" and method.beta == 0.3
