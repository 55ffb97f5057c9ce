"""From whet's keys to transformers' arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from whet.config import parse_config
from whet.train.arguments import WARMUP_STEPS, training_arguments


def arguments(folder: Path, items: int = 100, **keys: Any) -> Any:
    text = yaml.safe_dump({"base_model": "starter", "datasets": [{"path": "rows.jsonl"}], **keys})
    return training_arguments(parse_config(text), folder, items)


def test_keys_reach_the_arguments_of_their_meaning(tmp_path: Path) -> None:
    found = arguments(
        tmp_path,
        micro_batch_size=3,
        eval_batch_size=7,
        gradient_accumulation_steps=5,
        num_epochs=2.5,
        learning_rate="5e-5",
        lr_scheduler="linear",
        optimizer="adafactor",
        weight_decay=0.01,
        adam_beta1=0.8,
        adam_beta2=0.9,
        adam_epsilon=1e-6,
        max_grad_norm=0.5,
        logging_steps=4,
        save_total_limit=2,
        seed=11,
    )
    assert (found.per_device_train_batch_size, found.per_device_eval_batch_size) == (3, 7)
    assert (found.gradient_accumulation_steps, found.num_train_epochs, found.max_steps) == (5, 2.5, -1)
    assert (found.learning_rate, found.lr_scheduler_type, found.optim) == (5e-5, "linear", "adafactor")
    assert (found.weight_decay, found.adam_beta1, found.adam_beta2, found.adam_epsilon) == (0.01, 0.8, 0.9, 1e-6)
    assert (found.max_grad_norm, found.logging_steps, found.save_total_limit) == (0.5, 4, 2)
    assert (found.seed, found.data_seed, Path(found.output_dir)) == (11, 11, tmp_path)


def test_no_tracker_unless_named(tmp_path: Path) -> None:
    assert arguments(tmp_path).report_to == []


@pytest.mark.parametrize("key", ["wandb_project", "mlflow_tracking_uri", "trackio_project_name", "use_tensorboard"])
def test_a_named_tracker(tmp_path: Path, key: str) -> None:
    value: Any = True if key.startswith("use_") else "name"
    assert arguments(tmp_path, **{key: value}).report_to == [key.removeprefix("use_").split("_")[0]]


# 100 rows, micro batches of 2, 4 of them a step: 13 steps an epoch.
@pytest.mark.parametrize(
    ("keys", "warmup"),
    [
        ({}, 1),
        ({"num_epochs": 10}, 4),
        ({"num_epochs": 1000}, WARMUP_STEPS),
        ({"max_steps": 200}, 6),
        ({"warmup_steps": 0}, 0),
        ({"warmup_steps": 7}, 7),
        ({"warmup_ratio": 0.1, "max_steps": 50}, 5),
        ({"warmup_ratio": 0.1}, 2),
        ({"warmup_ratio": 0}, 0),
    ],
)
def test_warmup(tmp_path: Path, keys: dict[str, Any], warmup: int) -> None:
    assert arguments(tmp_path, **keys).warmup_steps == warmup


@pytest.mark.parametrize(
    ("keys", "strategy", "steps"),
    [
        ({}, "epoch", None),
        ({"saves_per_epoch": 0}, "no", None),
        ({"saves_per_epoch": 2}, "steps", 6),
        ({"saves_per_epoch": 100}, "steps", 1),
        ({"save_steps": 20}, "steps", 20),
        ({"save_steps": 0.25}, "steps", 0.25),
        ({"save_strategy": "no"}, "no", None),
        ({"save_strategy": "steps", "save_steps": 3}, "steps", 3),
    ],
)
def test_how_often_a_checkpoint_is_written(
    tmp_path: Path, keys: dict[str, Any], strategy: str, steps: float | None
) -> None:
    found = arguments(tmp_path, **keys)
    assert found.save_strategy == strategy
    if steps is not None:
        assert found.save_steps == steps


@pytest.mark.parametrize(
    ("keys", "strategy", "steps"),
    [
        ({}, "no", None),
        ({"val_set_size": 0.1}, "epoch", None),
        ({"test_datasets": [{"path": "held.jsonl"}]}, "epoch", None),
        ({"val_set_size": 5, "evals_per_epoch": 3}, "steps", 4),
        ({"val_set_size": 5, "eval_steps": 10}, "steps", 10),
        ({"val_set_size": 5, "eval_strategy": "no"}, "no", None),
    ],
)
def test_how_often_there_is_validation(tmp_path: Path, keys: dict[str, Any], strategy: str, steps: int | None) -> None:
    found = arguments(tmp_path, **keys)
    assert found.eval_strategy == strategy
    if steps is not None:
        assert found.eval_steps == steps


@pytest.mark.parametrize("wanted", [True, False])
def test_gradient_checkpointing_without_a_warning(
    tmp_path: Path, wanted: bool, recwarn: pytest.WarningsRecorder
) -> None:
    found = arguments(tmp_path, gradient_checkpointing=wanted)
    assert bool(found.gradient_checkpointing) is wanted
    assert [str(w.message) for w in recwarn if "checkpointing" in str(w.message)] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_what_a_notebook_for_a_gpu_asks_is_settled(tmp_path: Path) -> None:
    found = arguments(tmp_path, optimizer="adamw_8bit", bf16=True)
    assert (found.optim, found.bf16, found.fp16) == ("adamw_torch", False, False)
