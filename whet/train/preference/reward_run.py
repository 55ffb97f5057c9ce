"""A reward model from a config (``reward_model: true``); the run folder is that of ``whet.train.sft``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whet.config import RunConfig
from whet.config.sizes import parse_size
from whet.console import notice
from whet.engine.plan import policy_for
from whet.models.scores import widen_head
from whet.train.arguments import training_arguments
from whet.train.memory_plan import Wish
from whet.train.preference.reward import CollateRewards, Reward, RewardDataset, RewardObjective
from whet.train.preference.run import PreferenceRows, look_back, metrics_lines, preference_rows, report, warn_near_zero
from whet.train.sft import Job, RunResult, run_job
from whet.train.trainer import WhetTrainer


def run_reward(config: RunConfig, resume: bool = False) -> RunResult:
    """Train as ``config`` says; see ``whet.train.sft.run_sft``.

    Raises:
        WhetError: bad rows, model, or output folder; nothing half-written is left.
    """
    job = Job(preference_rows, report, reward_trainer, lambda rows: rows.train.prepared, True, look_back)
    result = run_job(config, resume, job)
    warn_near_zero(result.loss, "a lower learning_rate or a higher center_rewards_coefficient")
    held = [line for line in metrics_lines(result.folder) if "eval_rewards/accuracies" in line]
    if len(held) > 1:
        was, now = (100 * line["eval_rewards/accuracies"] for line in (held[0], held[-1]))
        margin = held[-1]["eval_rewards/margins"]
        text = f"held out: the chosen answer has the higher reward in {was:.0f}% of pairs before, {now:.0f}% after"
        notice(f"{text}; margin {margin:.3f}")
    return result


def reward_trainer(
    config: RunConfig, run: Path, model: Any, tokenizer: Any, rows: PreferenceRows, limit: int
) -> WhetTrainer:
    """The trainer of a run. ``micro_batch_size`` counts pairs."""
    widen_head(model)
    pad = tokenizer.pad_token_id or 0
    dataset, collate = RewardDataset(rows.train, pad), CollateRewards(pad)
    args = training_arguments(config, run / "checkpoints", len(dataset))
    args.eval_on_start = rows.valid is not None and args.eval_strategy != "no"
    trainer = WhetTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=RewardDataset(rows.valid, pad) if rows.valid is not None else None,
        collate=collate,
        tokenizer=tokenizer,
        metrics=run / "metrics.jsonl",
        wish=Wish(
            policy_for(config.gradient_checkpointing), parse_size(config.max_memory) if config.max_memory else None
        ),
        objective=RewardObjective(Reward(config.center_rewards_coefficient or 0.0)),
    )
    collate.flat = trainer.engine is not None
    return trainer
