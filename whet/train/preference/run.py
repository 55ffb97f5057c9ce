"""Preference training from a config; the run folder is that of ``whet.train.sft``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whet.config import DatasetConfig, RunConfig
from whet.config.sizes import parse_size
from whet.console import notice, warn
from whet.data.answer_documents import documents_of
from whet.data.answer_loader import AnswerDataset, CollateAnswers
from whet.data.answer_rows import SAME as SAME_TOKENS
from whet.data.answer_rows import AnswerRows, joined
from whet.data.collect import Source
from whet.data.formats.preference import SAME as SAME_ANSWERS
from whet.data.prepare import TOO_LONG
from whet.data.prepared import weighted
from whet.data.records import Record
from whet.data.run_rows import open_sources
from whet.data.shared_prompts import shared_prompts
from whet.engine.plan import policy_for
from whet.train.arguments import training_arguments
from whet.train.memory_plan import Wish
from whet.train.preference.methods import method_of
from whet.train.preference.objective import Kept, PreferenceObjective
from whet.train.preference.rows import label_rows, pair_rows
from whet.train.sft import Job, RunResult, run_job
from whet.train.trainer import WhetTrainer

FEW = 500  # examples below which preferences are mostly learned by heart
CUT_SHARE = 0.05  # of examples too long, from which that is a warning
LOOKED_AT = 200  # trained examples that are looked at after the run
NO_MARGIN = 1e-3  # mean margin that a model may have which did not move: its reference was computed in other batches
NEAR_ZERO = 0.02  # mean loss of a log-sigmoid at the end of a run: nothing is left to learn from these pairs


@dataclass(frozen=True)
class PreferenceRows:
    """The rows of a run; ``left_out`` counts those that gave no example, by reason."""

    train: AnswerRows
    valid: AnswerRows | None
    sample: list[Record]
    left_out: dict[str, int] = field(default_factory=dict)


def run_preference(config: RunConfig, resume: bool = False) -> RunResult:
    """Train as ``config`` says (``rl`` is set); see ``whet.train.sft.run_sft``.

    Raises:
        WhetError: bad rows, model, or output folder; nothing half-written is left.
    """
    result = run_job(
        config,
        resume,
        Job(preference_rows, report, preference_trainer, lambda rows: rows.train.prepared, after=look_back),
    )
    if config.rl in ("dpo", "simpo"):
        warn_near_zero(result.loss, "a lower learning_rate or a higher rl_beta")
    _compare(result.folder)
    return result


def warn_near_zero(loss: float, remedy: str) -> None:
    """Where a log-sigmoid is nearly 0 nothing is left to learn, and what the pairs have by chance was learned too."""
    if loss < NEAR_ZERO:
        text = f"the mean loss is {loss:.3f}: the pairs were learned by heart. Take fewer epochs, {remedy}"
        warn(f"{text}, and look at the held-out accuracy", key="near zero")


def look_back(trainer: WhetTrainer, rows: PreferenceRows) -> dict[str, float]:
    """What the trained model makes of its own rows (a drawn part of many), and a word about it.

    During the run each figure is of the model as it was at that step, and of rows that it meets for the first time.
    """
    dataset: Any = trainer.train_dataset
    count = min(LOOKED_AT, len(rows.train))
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows.train))[:count])
    found = trainer.evaluate(dataset.part(chosen), metric_key_prefix="trained")
    right, margin = 100 * found.get("trained_rewards/accuracies", 0.0), found["trained_rewards/margins"]
    of = f"{count:,} of its own" if count < len(rows.train) else "its own"
    what = "pairs" if rows.train.size == 2 else "answers"
    notice(f"trained rows: {of} {what} are told apart in {right:.0f}%, with a margin of {margin:.3f}")
    if margin <= NO_MARGIN:
        text = "the model does not prefer the chosen answers of the rows that it was trained on"
        warn(f"{text}: look at the loss; a higher learning_rate, more epochs or more rows may help", key="not learned")
    return found


def metrics_lines(run: Path) -> list[dict[str, Any]]:
    """The log of a run folder."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _compare(run: Path) -> None:
    """Say what held-out pairs show, before and after."""
    held = [line for line in metrics_lines(run) if "eval_rewards/accuracies" in line]
    if len(held) < 2:
        return
    before, after = held[0], held[-1]
    if "eval_logps/accuracies" in after:
        was, now = (f"{100 * line['eval_logps/accuracies']:.0f}%" for line in (before, after))
        notice(f"held out: the chosen answer is the more likely one, by token, in {was} of pairs before, {now} after")
    margin, right = after["eval_rewards/margins"], 100 * after["eval_rewards/accuracies"]
    notice(f"held out: the reward tells chosen from rejected in {right:.0f}% of pairs, with a margin of {margin:.3f}")


def preference_rows(config: RunConfig, tokenizer: Any, limit: int) -> PreferenceRows:
    """Read, encode and split the rows of a run.

    Raises:
        DataError: bad rows, or none left for training.
    """
    sample: list[Record] = []
    left_out: Counter[str] = Counter()
    train, sizes = _rows(config, tokenizer, limit, config.datasets, left_out, sample)
    valid: AnswerRows | None = None
    if config.test_datasets:
        valid, _ = _rows(config, tokenizer, limit, config.test_datasets, left_out, sample)
    weights = [entry.weight for entry in config.datasets]
    if not valid and config.val_set_size:
        if any(weight != 1 for weight in weights):
            warn("val_set_size: the weights of the data sets are not used", key="weights")
        train, valid = train.split(config.val_set_size, config.seed)
    elif any(weight != 1 for weight in weights):
        ends = np.cumsum(sizes)
        parts = [
            weighted(np.arange(end - size, end), weight, config.seed)
            for end, size, weight in zip(ends, sizes, weights, strict=True)
        ]
        train = train.take(np.concatenate(parts))
    return PreferenceRows(train, valid, [documents_of(record)[0] for record in sample], dict(left_out))


def _rows(
    config: RunConfig,
    tokenizer: Any,
    limit: int,
    entries: Sequence[DatasetConfig],
    left_out: Counter[str],
    sample: list[Record],
) -> tuple[AnswerRows, list[int]]:
    """The examples of these sources, and how many come from each."""
    make = label_rows if config.rl == "kto" else pair_rows
    found = []
    for source in open_sources(config, entries):
        rows = make(tokenizer, _records(source, sample), limit, config.long_rows)
        left_out.update(source.records.dropped)
        left_out.update(rows.dropped or {})
        found.append(rows)
    return joined(found), [len(rows) for rows in found]


def _records(source: Source, sample: list[Record]) -> Iterator[Record]:
    for record in source.records:
        if not sample:
            sample.append(record)
        yield record


def preference_trainer(
    config: RunConfig, run: Path, model: Any, tokenizer: Any, rows: PreferenceRows, limit: int
) -> WhetTrainer:
    """The trainer of a run. ``micro_batch_size`` counts pairs (KTO: answers)."""
    dataset = AnswerDataset(rows.train)
    args = training_arguments(config, run / "checkpoints", len(dataset))
    args.eval_on_start = rows.valid is not None and args.eval_strategy != "no"  # what the run is compared with
    collate = CollateAnswers(tokenizer.pad_token_id or 0)
    trainer = WhetTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        eval_dataset=AnswerDataset(rows.valid) if rows.valid is not None else None,
        collate=collate,
        tokenizer=tokenizer,
        metrics=run / "metrics.jsonl",
        wish=Wish(
            policy_for(config.gradient_checkpointing), parse_size(config.max_memory) if config.max_memory else None
        ),
        objective=PreferenceObjective(method_of(config), Kept(run / "reference", config.precompute_ref_log_probs)),
    )
    collate.flat = trainer.engine is not None
    return trainer


def report(rows: PreferenceRows) -> None:
    """Say what the rows are, and what is unusual about them."""
    train, stats = rows.train, rows.train.prepared.stats
    what = "pairs" if train.size == 2 else "judged answers"
    share = 100 * stats.trained_tokens / max(stats.tokens, 1)
    held = f"; {len(rows.valid):,} for validation" if rows.valid is not None else ""
    notice(f"data: {len(train):,} {what}, {stats.tokens:,} tokens, {share:.0f}% of them in answers{held}")
    for reason, count in rows.left_out.items():
        notice(f"data: {count:,} rows left out: {reason}")
    if rows.left_out.get(TOO_LONG, 0) > CUT_SHARE * len(train):
        warn(f"{rows.left_out[TOO_LONG]:,} {what} are longer than sequence_len: raise it", key="too long")
    same = sum(rows.left_out.get(reason, 0) for reason in (SAME_ANSWERS, SAME_TOKENS))
    if same > CUT_SHARE * len(train):
        text = f"in {same:,} rows both answers are the same, and they teach nothing"
        warn(f"{text}: look at how the answers were collected", key="same answers")
    differing = shared_prompts(train.prepared, train.size).differing
    if differing:
        text = f"{differing:,} pairs write their prompt in two ways (the template joins it with the answer)"
        warn(f"{text}: the difference is learned too; whet preview shows them", key="prompts differ")
    if len(train) < FEW:
        text = f"{len(train):,} {what} are few (usual are {FEW:,} and more)"
        warn(f"{text}: hold some out (val_set_size), and compare their accuracy before and after", key="few pairs")
    if train.good is not None and len(set(train.good.tolist())) == 1:
        warn("all judged answers are of one kind: nothing tells good from bad", key="one kind")
