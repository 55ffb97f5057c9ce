"""Do whet and TRL's DPOTrainer learn the same? 50 steps of DPO on the same pairs, every step's figures side by side.

    PYTHONPATH=FOLDER_WITH_TRL python benchmarks/preference_same_loss.py [--pairs FILE] [--steps 50] [--full]

The starter in float32, LoRA (r = 8, all linear layers) with the same first values, or ``--full``: all weights. Pairs of
the sample task (concise over verbose answers; ``--pairs``: a file of any format), as the same token ids in the same
order. Four pairs a step, AdamW, a constant rate, gradients clipped to 1, beta 0.1. TRL needs no more than its own
folder (pip install --no-deps --target FOLDER trl). Bar: losses within 1e-3 at every step.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from record import record

from whet.data.answer_loader import AnswerDataset, CollateAnswers
from whet.data.answer_rows import AnswerRows
from whet.data.formats import FormatSpec, open_records
from whet.data.stream import open_rows
from whet.models.adapters import add_lora
from whet.models.load import load_model
from whet.sample.preferences import preference_records
from whet.text.encode import IGNORE
from whet.train.preference.dpo import Dpo
from whet.train.preference.objective import PreferenceObjective
from whet.train.preference.rows import pair_rows
from whet.train.trainer import WhetTrainer

BETA, PAIRS_A_STEP, LENGTH, BAR = 0.1, 4, 512, 1e-3
FIGURES = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "grad_norm")


def rows_of(path: str | None, tokenizer: Any, count: int) -> AnswerRows:
    """The first ``count`` pairs that fit, as tokens."""
    records = preference_records() if path is None else open_records(open_rows(Path(path)), FormatSpec())
    rows = pair_rows(tokenizer, records, LENGTH)
    return rows.take(range(count))


def arguments(kind: Any, folder: str, steps: int, rate: float, **more: Any) -> Any:
    """The same settings for both trainers."""
    return kind(
        output_dir=folder,
        per_device_train_batch_size=PAIRS_A_STEP,
        gradient_accumulation_steps=1,
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3407,
        bf16=False,
        fp16=False,
        **more,
    )


def with_whet(model: Any, rows: AnswerRows, steps: int, rate: float) -> list[dict[str, float]]:
    from transformers import TrainingArguments

    collate = CollateAnswers(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = WhetTrainer(
            model=model,
            args=arguments(TrainingArguments, folder, steps, rate),
            train_dataset=AnswerDataset(rows),
            collate=collate,
            tokenizer=None,
            objective=PreferenceObjective(Dpo(BETA)),
        )
        collate.flat = trainer.engine is not None
        trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def with_trl(
    model: Any, tokenizer: Any, rows: AnswerRows, order: list[int], steps: int, rate: float
) -> list[dict[str, float]]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    text = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * len(rows))
    with tempfile.TemporaryDirectory() as folder:
        more = {"beta": BETA, "max_length": LENGTH, "train_sampling_strategy": "sequential"}
        more |= {"gradient_checkpointing": False}
        args = arguments(DPOConfig, folder, steps, rate, **more)
        frozen = None if hasattr(model, "peft_config") else copy.deepcopy(model)
        trainer = DPOTrainer(model=model, ref_model=frozen, args=args, train_dataset=text, processing_class=tokenizer)
        trainer.train_dataset = Dataset.from_list([_ids(rows, number) for number in order])
        trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def _ids(rows: AnswerRows, number: int) -> dict[str, list[int]]:
    """A pair as TRL's collator takes it: the answers are the trained tokens, the prompt is what both begin with."""
    found: dict[str, list[int]] = {}
    for name, place in (("chosen", 0), ("rejected", 1)):
        ids, labels = rows.prepared.row(2 * number + place)
        answer = int((labels != IGNORE).argmax())
        end = len(labels) - int((labels[::-1] != IGNORE).argmax())
        found["prompt_ids"], found[f"{name}_ids"] = ids[:answer].tolist(), ids[answer:end].tolist()
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--full", action="store_true")
    asked = parser.parse_args()
    rate = 2e-6 if asked.full else 1e-4
    base, tokenizer = load_model("starter", dtype=torch.float32)
    model = base.float() if asked.full else add_lora(base.float(), rank=8, alpha=16, seed=3407)
    other = copy.deepcopy(model)
    rows = rows_of(asked.pairs, tokenizer, 200)
    began = time.monotonic()
    ours = with_whet(model, rows, asked.steps, rate)
    middle = time.monotonic()
    from whet.data.sampler import SeededSampler

    order: list[int] = []
    sampler = SeededSampler(len(rows), 3407, batch_size=PAIRS_A_STEP)
    for epoch in range(math.ceil(asked.steps * PAIRS_A_STEP / len(rows))):
        sampler.set_epoch(epoch)
        order += sampler.order().tolist()
    theirs = with_trl(other, tokenizer, rows, order, asked.steps, rate)
    seconds = {"whet": round(middle - began, 1), "trl": round(time.monotonic() - middle, 1)}
    apart = {
        name: max(abs(a[name] - b[name]) for a, b in zip(ours, theirs, strict=True))
        for name in FIGURES
        if name in ours[0]
    }
    passed = apart["loss"] <= BAR
    record(
        f"preference_same_loss{'_full' if asked.full else ''}",
        what=__doc__.splitlines()[0] if __doc__ else "",
        peer={"trl": version("trl")},
        settings={"steps": asked.steps, "rate": rate, "beta": BETA, "pairs_a_step": PAIRS_A_STEP, "pairs": len(rows)},
        largest_difference={name: float(f"{value:.3g}") for name, value in apart.items()},
        losses={"whet": [line["loss"] for line in ours], "trl": [line["loss"] for line in theirs]},
        margins={
            name: [line["rewards/margins"] for line in lines] for name, lines in (("whet", ours), ("trl", theirs))
        },
        seconds=seconds,
        bar=BAR,
        passed=passed,
    )
    print(apart, seconds, "passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
