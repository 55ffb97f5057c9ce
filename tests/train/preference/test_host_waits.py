"""What the trainer does in place of transformers, so that the host does not wait in a step, gives what that gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_shared_step import watched
from transformers import Trainer

from whet.data.answer_rows import AnswerRows
from whet.errors import TrainingError
from whet.train.preference.dpo import Dpo

NAN = float("nan")


def spoil(trainer: Any, passes: set[int]) -> None:
    """The losses of these passes are no numbers; their gradients are."""
    loss_sum, done = trainer._loss_sum, [0]

    def spoilt(model: Any, inputs: Any) -> torch.Tensor:
        done[0] += 1
        return loss_sum(model, inputs) + (NAN if done[0] - 1 in passes else 0.0)

    trainer._loss_sum = spoilt


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_losses_that_are_no_numbers_are_left_out_as_by_transformers(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, kind: str
) -> None:
    found = []
    for own in (True, False):
        trainer = make_trainer(
            make_model(kind), pairs, Dpo(0.3), accumulate=2, flat=kind == "lora", max_steps=7, logging_steps=3
        )
        assert trainer._finite is not None and not trainer.args.logging_nan_inf_filter
        if not own:
            trainer._finite, trainer.args.logging_nan_inf_filter = None, True
        spoil(trainer, {0, 3, 4, 7})
        trainer.train()
        found.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert len(found[0]) == 2 and min(found[0]) > 0
    assert found[0] == found[1]


def test_whoever_turns_the_filter_off_sees_them(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    trainer = make_trainer(make_model("lora"), pairs, Dpo(0.3), flat=True, logging_nan_inf_filter=False)
    spoil(trainer, {0})
    with pytest.raises(TrainingError, match="the loss is not a number at step 1"):
        trainer.train()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_operations_are_counted_as_by_transformers(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows, kind: str
) -> None:
    trainer = make_trainer(make_model(kind), pairs, Dpo(0.3), micro=2, accumulate=2, flat=True, max_steps=3)
    wanted: list[int] = []
    count = trainer.floating_point_ops

    def counted(inputs: Any) -> int:
        wanted.append(Trainer.floating_point_ops(trainer, inputs))
        return int(count(inputs))

    trainer.floating_point_ops = counted
    trainer.train()
    assert len(set(wanted)) > 1 and trainer.state.total_flos == sum(wanted)


def test_a_model_is_put_into_training_mode(
    make_model: Callable[..., Any], make_trainer: Callable[..., Any], pairs: AnswerRows
) -> None:
    """Also where only a part of it is not; the arguments stay as they were given."""
    model = make_model("lora")
    for part in model.modules():
        part.training = part is model
    trainer = make_trainer(model, pairs, Dpo(0.3), micro=2, flat=True, max_steps=3, eval_strategy="steps", eval_steps=1)
    seen: list[int] = []
    watched(trainer, seen).train()
    assert seen and all(part.training for part in model.modules())
