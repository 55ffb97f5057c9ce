"""From whet's config to transformers' ``TrainingArguments``."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from whet.config import RunConfig
from whet.train import trackers
from whet.train.fallback import mixed_precision, optimizer_name

WARMUP_SHARE, WARMUP_STEPS = 0.03, 100  # what an unset warmup means: 3% of all steps, at most 100


def training_arguments(config: RunConfig, folder: Path, items: int) -> TrainingArguments:
    """The arguments of a run over ``items`` rows (packed rows where rows are packed)."""
    per_epoch = math.ceil(math.ceil(items / config.micro_batch_size) / config.gradient_accumulation_steps)
    total = config.max_steps or math.ceil(per_epoch * config.num_epochs)
    bf16, fp16 = mixed_precision(config.bf16, config.fp16)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.micro_batch_size,
        per_device_eval_batch_size=config.eval_batch_size or config.micro_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.num_epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        lr_scheduler_kwargs=config.lr_scheduler_kwargs,
        warmup_steps=_warmup(config, total),
        optim=optimizer_name(config.optimizer),
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        bf16=bf16,
        fp16=fp16,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_total_limit=config.save_total_limit,
        seed=config.seed,
        data_seed=config.seed,
        dataloader_pin_memory=False,  # trainer_arguments
        disable_tqdm=True,
        **trackers.arguments(config),
        **(_recompute() if config.gradient_checkpointing is True else {}),
        **_when("save", config.save_strategy, config.save_steps, config.saves_per_epoch, per_epoch, "epoch"),
        **_when("eval", config.eval_strategy, config.eval_steps, config.evals_per_epoch, per_epoch, _eval(config)),
    )


def trainer_arguments(args: TrainingArguments) -> TrainingArguments:
    """A copy of the arguments for whet's trainer: batches are its own, they reach a GPU from pinned memory, and the
    host does not wait for that."""
    args = copy.copy(args)
    args._n_gpu = min(args.n_gpu, 1)  # of several, transformers would run the model's own forward on each
    args.remove_unused_columns = False
    args.label_names = ["labels"]
    if args.device.type == "cuda":
        args.dataloader_pin_memory = True
        args.accelerator_config = copy.copy(args.accelerator_config)
        args.accelerator_config.non_blocking = True  # type: ignore[union-attr]
    return args


def _recompute() -> dict[str, Any]:
    """The switch for gradient checkpointing: transformers 5.23 has a new name for it and warns of the old one."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}}


def _eval(config: RunConfig) -> str:
    return "epoch" if config.test_datasets or config.val_set_size else "no"


def _warmup(config: RunConfig, total: int) -> int:
    if config.warmup_steps is not None:
        return config.warmup_steps
    if config.warmup_ratio is not None:
        return math.ceil(config.warmup_ratio * total)
    return min(math.ceil(WARMUP_SHARE * total), WARMUP_STEPS)


def _when(
    what: str, strategy: str | None, steps: float | None, times: int | None, per_epoch: int, default: str
) -> dict[str, Any]:
    """``save_strategy``/``save_steps`` (or ``eval_...``) from the three ways of saying how often."""
    if times == 0 or strategy == "no":
        return {f"{what}_strategy": "no"}
    if times:
        return {f"{what}_strategy": "steps", f"{what}_steps": max(1, round(per_epoch / times))}
    if steps is not None:
        return {f"{what}_strategy": "steps", f"{what}_steps": steps if steps < 1 else int(steps)}
    return {f"{what}_strategy": strategy or default}
