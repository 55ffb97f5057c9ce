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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from whet import runtime
from whet.config import RunConfig
from whet.console import notice, output_errors, staged_folder, write_text_atomic
from whet.data.loader import PackedDataset, PaddedDataset, Prepared, collate, collate_padded, prepare
from whet.data.tokens import encode_records
from whet.errors import WhetError
from whet.models.adapters import ALL_LINEAR, add_lora
from whet.models.load import context_length, load_model
from whet.models.names import STARTER
from whet.train import trackers
from whet.train.arguments import training_arguments
from whet.train.checkpoint import newest_complete, set_aside
from whet.train.manifest import write_manifest
from whet.train.rows import read_records
from whet.train.template import choose_template, settle_template
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


def run_sft(config: RunConfig, resume: bool = False) -> RunResult:
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
    train, valid = read_records(config)
    model, tokenizer = load_model(
        _base(config),
        load_in_4bit=config.load_in_4bit or config.adapter == "qlora",
        revision=config.revision_of_model,
    )
    _special_tokens(tokenizer, config)
    choose_template(tokenizer, config.chat_template, config.chat_template_text())
    limit = context_length(model.config, config.sequence_len)
    encode = partial(encode_records, tokenizer, train_on_inputs=config.train_on_inputs)
    prepared = prepare(encode(train.records), limit, config.excess_length_strategy)
    _report(prepared, train.dropped)
    held = prepare(encode(valid.records), limit, config.excess_length_strategy) if valid.records else None
    template = settle_template(tokenizer, train.records)
    model = _trainable(model, config)
    write_text_atomic(run / "config.yml", config.to_yaml(absolute=True))
    trainer = _trainer(config, run, model, tokenizer, prepared, held, limit)
    checkpoint = newest_complete(run / "checkpoints") if resume else None
    if resume:
        notice(f"going on from {checkpoint}" if checkpoint else f"no complete checkpoint in {run}: starting afresh")
    if checkpoint is None:
        (run / "metrics.jsonl").unlink(missing_ok=True)
        set_aside(run / "checkpoints")
    result = _train(trainer, config, run, checkpoint)
    _save(run, trainer.model, tokenizer, adapter=config.adapter is not None)
    write_manifest(
        run / "manifest.json",
        prepared,
        seed=config.seed,
        base_model=config.base_model,
        chat_template=template,
        context_length=limit,
        steps=result.steps,
        interrupted=result.interrupted,
        train_seconds=round(result.seconds, 2),
        train_tokens_per_second=round(result.tokens_per_second, 1),
        train_loss=result.loss,
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


def _report(prepared: Prepared, dropped: dict[str, int]) -> None:
    stats = prepared.stats
    share = 100 * stats.trained_tokens / max(stats.tokens, 1)
    notice(f"data: {len(prepared):,} rows, {stats.tokens:,} tokens, {share:.0f}% of them trained")
    for reason, count in {**dropped, **stats.dropped}.items():
        notice(f"data: {count:,} rows left out: {reason}")
    if stats.truncated:
        notice(f"data: {stats.truncated:,} rows were cut to sequence_len")


def _base(config: RunConfig) -> str:
    return config.base_model if config.base_model == STARTER else str(config.resolve_path(config.base_model))


def _special_tokens(tokenizer: Any, config: RunConfig) -> None:
    wanted = config.special_tokens.model_dump(exclude_none=True) if config.special_tokens else {}
    for name, text in wanted.items():
        if text not in tokenizer.get_vocab():
            raise WhetError(f"special_tokens.{name}: {text!r} is not in the vocabulary", "a token that the model knows")
        setattr(tokenizer, name, text)


def _trainable(model: Any, config: RunConfig) -> Any:
    if config.adapter is None:
        return model.float()  # float32 master weights: bfloat16 ones would not move at usual learning rates
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
    )


def _has_usual_names(model: Any) -> bool:
    return {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()} >= set(ALL_LINEAR)


def _trainer(
    config: RunConfig, run: Path, model: Any, tokenizer: Any, prepared: Prepared, held: Prepared | None, limit: int
) -> WhetTrainer:
    def items(rows: Prepared) -> PackedDataset | PaddedDataset:
        return PackedDataset(rows, limit) if config.sample_packing else PaddedDataset(rows)

    dataset = items(prepared)
    return WhetTrainer(
        model=model,
        args=training_arguments(config, run / "checkpoints", len(dataset)),
        train_dataset=dataset,
        eval_dataset=items(held) if held is not None else None,
        collate=partial(collate if config.sample_packing else collate_padded, pad_id=tokenizer.pad_token_id or 0),
        tokenizer=tokenizer,
        metrics=run / "metrics.jsonl",
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
