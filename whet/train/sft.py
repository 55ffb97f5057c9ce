"""Supervised fine-tuning from a config: rows -> tokens -> training -> run folder.

RUN/config.yml       the config as resolved
RUN/adapter/         the PEFT adapter with its tokenizer (RUN/model/ for full fine-tuning)
RUN/checkpoints/     checkpoint-N, to go on from
RUN/metrics.jsonl    one line for each log entry
RUN/manifest.json    versions, device, data hash, seeds, figures
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from whet import runtime
from whet.config import RunConfig
from whet.config.sizes import parse_size
from whet.console import notice, output_errors, staged_folder, write_text_atomic
from whet.data.loader import PackedDataset, PaddedDataset, Prepared, collate, collate_padded
from whet.data.run_rows import Rows, prepare_rows
from whet.engine.plan import policy_for
from whet.models.adapters import ALL_LINEAR, add_lora
from whet.models.load import load_model
from whet.models.scores import TASK
from whet.train import trackers
from whet.train.arguments import training_arguments
from whet.train.base import base_name, longest_row, tokenizer_for
from whet.train.checkpoint import newest_complete, set_aside
from whet.train.engine import head_start
from whet.train.fallback import weights_asked
from whet.train.manifest import write_manifest
from whet.train.memory_plan import Wish
from whet.train.streaming import keep_in_main_memory, streams_here
from whet.train.template import settle_template
from whet.train.trainer import WhetTrainer


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Args:
        seconds: of training, in this session.
        tokens: real tokens that went through training in this session, padding not counted.
        loss: mean training loss of this session, nats per trained token.
        interrupted: Ctrl-C stopped it; a checkpoint was written.
    """

    folder: Path
    steps: int
    seconds: float
    tokens: int
    loss: float
    interrupted: bool

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


class Job(NamedTuple):
    """What differs between kinds of training.

    Attributes:
        rows: reads and encodes them; what it returns has ``sample``, records for the chat template.
        report: says what they are.
        trainer: of config, run folder, model, tokenizer, rows and the longest row.
        prepared: the training rows as tokens, for the manifest.
        scores: the model scores texts, and writes none.
        after: looks at the trained model, once it is saved; of trainer and rows. Its figures go to the manifest.
    """

    rows: Callable[[RunConfig, Any, int], Any]
    report: Callable[[Any], None]
    trainer: Callable[[RunConfig, Path, Any, Any, Any, int], WhetTrainer]
    prepared: Callable[[Any], Prepared]
    scores: bool = False
    after: Callable[[WhetTrainer, Any], dict[str, float]] | None = None


def run_sft(config: RunConfig, resume: bool = False) -> RunResult:
    """Supervised fine-tuning as ``config`` says; see ``run_job``."""
    return run_job(config, resume, Job(prepare_rows, _report, _trainer, lambda rows: rows.train))


def run_job(config: RunConfig, resume: bool, job: Job) -> RunResult:
    """Train as ``config`` says and write the run folder ``config.output_dir``.

    Args:
        resume: go on from the newest complete checkpoint there; start afresh where there is none.

    Raises:
        WhetError: bad rows, model, or output folder; nothing half-written is left.
    """
    run = Path(config.output_dir)
    trackers.check_installed(config)
    _claim(run)
    runtime.seed_everything(config.seed)
    tokenizer = tokenizer_for(config)
    limit = longest_row(config)
    rows = job.rows(config, tokenizer, limit)
    job.report(rows)
    template = settle_template(tokenizer, rows.sample, config.raw_text)
    model = _model(config, job.scores)
    write_text_atomic(run / "config.yml", config.to_yaml(absolute=True))
    trainer = job.trainer(config, run, model, tokenizer, rows, limit)
    checkpoint = newest_complete(run / "checkpoints") if resume else None
    if resume:
        notice(f"going on from {checkpoint}" if checkpoint else f"no complete checkpoint in {run}: starting afresh")
    if checkpoint is None:
        (run / "metrics.jsonl").unlink(missing_ok=True)
        set_aside(run / "checkpoints")
    result = _train(trainer, config, run, checkpoint)
    _save(run, trainer.model, tokenizer, adapter=config.adapter is not None)
    own = job.after(trainer, rows) if job.after is not None and not result.interrupted else {}
    write_manifest(
        run / "manifest.json",
        job.prepared(rows),
        seed=config.seed,
        base_model=config.base_model,
        chat_template=template,
        context_length=limit,
        steps=result.steps,
        interrupted=result.interrupted,
        train_seconds=round(result.seconds, 2),
        train_tokens_per_second=round(result.tokens_per_second, 1),
        train_loss=result.loss,
        forward=trainer.forward,
        **({"trained_rows": own} if own else {}),
        memory=trainer.memory.facts() if trainer.memory is not None else {},
    )
    return result


def _train(trainer: WhetTrainer, config: RunConfig, run: Path, checkpoint: Path | None) -> RunResult:
    began = time.monotonic()
    with trackers.environment(config):
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return RunResult(
        run,
        trainer.state.global_step,
        time.monotonic() - began,
        trainer.meter.tokens,
        output.training_loss,
        trainer.interrupt.interrupted,
    )


def _report(rows: Rows) -> None:
    stats = rows.train.stats
    share = 100 * stats.trained_tokens / max(stats.tokens, 1)
    held = f"; {len(rows.valid):,} rows for validation" if rows.valid is not None else ""
    notice(f"data: {len(rows.train):,} rows, {stats.tokens:,} tokens, {share:.0f}% of them trained{held}")
    for reason, count in {**rows.left_out, **stats.dropped}.items():
        notice(f"data: {count:,} rows left out: {reason}")
    if stats.truncated:
        notice(f"data: {stats.truncated:,} rows were cut at sequence_len")
    if stats.quoted:
        notice(f"data: {stats.quoted:,} rows quote special tokens; they are trained as the plain text that they are")


def _model(config: RunConfig, scores: bool) -> Any:
    """Ready to be trained, and where its weights will stay."""
    weights = weights_asked(config.bf16, frozen=config.adapter is not None)
    four_bit = config.load_in_4bit or config.adapter == "qlora"
    if config.adapter is not None:
        head_start(base_name(config), weights, four_bit=four_bit, revision=config.revision_of_model)
    streamed = streams_here(config.stream_weights)
    model, _ = load_model(
        base_name(config),
        dtype=weights,
        training=True,
        load_in_4bit=four_bit,
        revision=config.revision_of_model,
        scores=scores,
        on_cpu=streamed,
    )
    model = _trainable(model, config, TASK if scores else "CAUSAL_LM")
    if streamed:
        keep_in_main_memory(model, runtime.device())
    return model


def _trainable(model: Any, config: RunConfig, task: str) -> Any:
    if config.adapter is None:
        return model  # in bfloat16 the trainer gives it float32 masters (train/masters.py)
    targets = config.lora_targets
    return add_lora(
        model,
        rank=config.lora_r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=ALL_LINEAR if targets == "all-linear" and _has_usual_names(model) else targets,
        modules_to_save=config.lora_modules_to_save,
        use_rslora=config.peft_use_rslora,
        seed=config.seed,
        task=task,
    )


def _has_usual_names(model: Any) -> bool:
    return {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()} >= set(ALL_LINEAR)


def _trainer(config: RunConfig, run: Path, model: Any, tokenizer: Any, rows: Rows, limit: int) -> WhetTrainer:
    def items(rows: Prepared) -> PackedDataset | PaddedDataset:
        return PackedDataset(rows, limit) if config.sample_packing else PaddedDataset(rows)

    dataset = items(rows.train)
    return WhetTrainer(
        model=model,
        args=training_arguments(config, run / "checkpoints", len(dataset)),
        train_dataset=dataset,
        eval_dataset=items(rows.valid) if rows.valid is not None else None,
        collate=partial(collate if config.sample_packing else collate_padded, pad_id=tokenizer.pad_token_id or 0),
        tokenizer=tokenizer,
        metrics=run / "metrics.jsonl",
        wish=Wish(
            policy_for(config.gradient_checkpointing), parse_size(config.max_memory) if config.max_memory else None
        ),
    )


def _save(run: Path, model: Any, tokenizer: Any, adapter: bool) -> None:
    with staged_folder(run / ("adapter" if adapter else "model"), replace=True) as stage:
        model.save_pretrained(stage)
        tokenizer.save_pretrained(stage)


def _claim(run: Path) -> None:
    """Prove that the run folder can be written before an hour of work goes into it. Nothing is left behind."""
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    with output_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        for folder in missing:
            folder.rmdir()
