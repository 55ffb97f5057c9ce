"""On a GPU: no margin at step 0 in 16 and 4 bits, and the engine's step beside the model's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from whet.data.answer_rows import AnswerRows
from whet.train.memory_plan import Wish
from whet.train.preference.dpo import Dpo

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["fresh", "full"])
def test_step_0_has_no_margin(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, dtype: torch.dtype, kind: str
) -> None:
    model = make_model(kind, dtype).cuda()
    trainer = make_trainer(model, pairs, Dpo(0.1), accumulate=8, bf16=dtype == torch.bfloat16)
    assert trainer.engine is not None
    trainer.train()
    line = next(line for line in trainer.state.log_history if "loss" in line)
    assert line["rewards/margins"] == 0 and line["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_packing_does_not_matter(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    model, lines = make_model("lora").cuda(), []
    for micro, accumulate, flat in ((1, 8, False), (8, 1, True)):
        trainer = make_trainer(copy.deepcopy(model), pairs, Dpo(0.1), micro=micro, accumulate=accumulate, flat=flat)
        trainer.train()
        lines.append(next(line for line in trainer.state.log_history if "loss" in line))
    assert lines[1]["loss"] == pytest.approx(lines[0]["loss"], rel=1e-4)
    assert lines[1]["grad_norm"] == pytest.approx(lines[0]["grad_norm"], rel=1e-3)


def test_full_fine_tuning_takes_small_micro_batches_at_once(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    """Tried before the reference is computed, so that the first step has no margin."""
    found = []
    for goal in ("none", None):
        trainer = make_trainer(
            make_model("full", torch.bfloat16),
            pairs,
            Dpo(0.1),
            accumulate=4,
            max_steps=2,
            bf16=True,
            learning_rate=1e-5,
        )
        trainer.wish = Wish(goal)
        trainer.train()
        lines = [line for line in trainer.state.log_history if "loss" in line]
        assert lines[0]["rewards/margins"] == 0
        found.append((trainer.memory.at_once, [line["loss"] for line in lines]))
    (one, alone), (four, merged) = found
    assert (one, four) == (1, 4) and merged == pytest.approx(alone, abs=0.05)


@pytest.mark.parametrize("name", ["get_batch_samples", "training_step"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_host_waits_for_nothing(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, dtype: torch.dtype, name: str
) -> None:
    """From the batches of a step to its last backward: torch refuses whatever waits for the device."""
    model = make_model("lora", dtype).cuda()
    trainer = make_trainer(
        model, pairs, Dpo(0.1), micro=2, accumulate=2, max_steps=6, flat=True, bf16=dtype == torch.bfloat16
    )
    assert trainer.engine is not None
    call, guarded = getattr(trainer, name), []

    def watched(*arguments: Any) -> Any:
        if trainer.state.global_step < 4:  # the plan is tried, and the optimizer has its state
            return call(*arguments)
        guarded.append(trainer.state.global_step)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return call(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    setattr(trainer, name, watched)
    trainer.train()
    assert set(guarded) == {4, 5}
