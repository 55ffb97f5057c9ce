"""whet's part of ``engine_h200.py``: one process, one storage of the weights, several policies and settings.

The training loop does what the peers' trainers do in a step: rows to the GPU, loss and gradients, clipping at 1,
AdamW with a linear schedule, the loss read back. Rows are those of the peers: words drawn with the same seed, cut at
the same length, every token trained.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import get_linear_schedule_with_warmup

from whet import runtime
from whet.engine.forward import Engine
from whet.engine.memory import Work
from whet.engine.plan import choose
from whet.engine.rates import H200
from whet.engine.shape import Storage, shape_of_model
from whet.engine.spec import Unsupported
from whet.models.adapters import add_lora
from whet.models.load import load_model
from whet.train.flat import FlatAdapters
from whet.train.optim import FlatAdamW

GIB = 2**30
LIMIT = 24 * GIB  # of policy "24gib"
LOWER = {"none": "mlp", "mlp": "full"}
RATE, DECAY, CLIP = 2e-4, 0.01, 1.0  # the peers'


class Setting(NamedTuple):
    """What bench_train.py reads out of the same words."""

    label: str
    batch: int
    accum: int
    seq: int
    steps: int
    warmup: int

    @property
    def tokens(self) -> int:
        """Of an optimizer step."""
        return self.batch * self.accum * self.seq


def parse_settings(text: str) -> list[Setting]:
    """Settings of ``--settings``."""
    found = []
    for label in text.split(","):
        match = re.fullmatch(r"b(\d+)a(\d+)s(\d+)n(\d+)w(\d+)", label)
        if match is None:
            raise ValueError(f"setting {label!r}; expected something like b8a1s2048n8w3")
        found.append(Setting(label, *map(int, match.groups())))
    return found


def all_rows(folder: str, tokenizer: Any, settings: list[Setting]) -> dict[str, torch.Tensor]:
    """Token ids (optimizer steps, accumulation, batch, tokens) of each setting, drawn as bench_train.py does."""
    words, draw = (Path(folder) / "words.txt").read_text().split("\n"), random.Random(1)
    found = {}
    for setting in settings:
        count = setting.steps * setting.accum * setting.batch
        texts = [" ".join(draw.choices(words, k=setting.seq)) for _ in range(count)]
        ids = [tokenizer(text)["input_ids"][: setting.seq] for text in texts]
        shape = (setting.steps, setting.accum, setting.batch, setting.seq)
        found[setting.label] = torch.tensor(ids).reshape(shape)
    return found


class Trainer:
    """The engine with its optimizer; every ``run`` starts from the same adapters."""

    def __init__(self, engine: Engine, model: Any) -> None:
        self.engine = engine
        self.flat = FlatAdapters([parameter for parameter in model.parameters() if parameter.requires_grad])
        self.initial = self.flat.values.cpu().clone()
        self.device = self.flat.values.device
        engine.changed()

    def run(self, setting: Setting, rows: torch.Tensor) -> dict[str, Any]:
        """Step times, losses and peaks of one setting under the engine's policies."""
        self._reset()
        optimizer = FlatAdamW(self.flat, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
        schedule = get_linear_schedule_with_warmup(optimizer, 2, setting.steps)
        optimizer.zero_grad()
        losses, ends = [], [self._now()]
        for rows_ABS in rows:
            loss = torch.zeros((), device=self.device)
            for rows_BS in rows_ABS:
                loss += self._micro_batch(rows_BS, setting)
            self.flat.clip_(CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(round(float(loss), 4))
            ends.append(self._now())
        return {
            "step_s": [round(end - start, 5) for start, end in pairwise(ends)],
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "loss": losses,
            **self.before,
            **self._peaks("peak"),
        }

    def _micro_batch(self, rows_BS: torch.Tensor, setting: Setting) -> torch.Tensor:
        cuda = self.device.type == "cuda"
        ids_BS = (rows_BS.pin_memory() if cuda else rows_BS).to(self.device, non_blocking=True)
        positions_BS = torch.arange(setting.seq, device=self.device).repeat(setting.batch, 1)
        trained = setting.accum * setting.batch * (setting.seq - 1)
        loss = self.engine.loss_sum(ids_BS, positions_BS, ids_BS) / trained
        loss.backward()
        return loss.detach()

    def _reset(self) -> None:
        self.flat.values.copy_(self.initial)
        self.engine.changed()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.before = self._peaks("before")

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _peaks(self, name: str) -> dict[str, float]:
        """The highest since the last reset, in GiB."""
        peaks = (0, 0)
        if self.device.type == "cuda":
            peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {f"{name}_alloc_gib": round(peaks[0] / GIB, 3), f"{name}_reserved_gib": round(peaks[1] / GIB, 3)}


def planned(engine: Engine, setting: Setting, storage: str) -> tuple[list[str], dict[str, float]]:
    """The plan's policies for 24 GiB of reserved memory, and what the plan promises."""
    stored: Storage = "nf4" if storage == "nf4" else "dense"
    shape = shape_of_model(engine.spec, storage=stored)
    tokens = setting.batch * setting.seq
    work = Work(tokens, tokens - setting.batch, float(tokens * setting.seq), setting.accum, True)
    plan = choose(shape, work, LIMIT, H200, "fastest")
    promised = {"peak_alloc_gib": plan.peak_bytes / GIB, "tokens_per_second": plan.tokens_per_second}
    return list(plan.policies), {name: round(value, 2) for name, value in promised.items()}


def limited(trainer: Trainer, setting: Setting, rows: torch.Tensor, storage: str) -> dict[str, Any]:
    """A run in which the allocator may reserve 24 GiB; layers keep less where the plan does not fit after all."""
    policies, promised = planned(trainer.engine, setting, storage)
    cuda = trainer.device.type == "cuda"
    if cuda:
        torch.cuda.set_per_process_memory_fraction(LIMIT / torch.cuda.mem_get_info()[1])
    try:
        for retries in range(2 * len(policies)):
            trainer.engine.policies = policies  # type: ignore[assignment]
            measured = attempt(trainer, setting, rows)
            if measured is not None:
                return {**measured, "planned": promised, "out_of_memory_before": retries}
            keeping = [number for number, policy in enumerate(policies) if policy in LOWER]
            if not keeping:
                break
            policies[keeping[0]] = LOWER[policies[keeping[0]]]
        return {"error": "does not fit into 24 GiB", "planned": promised}
    finally:
        if cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)


def attempt(trainer: Trainer, setting: Setting, rows: torch.Tensor) -> dict[str, Any] | None:
    """A run; None where memory does not suffice."""
    try:
        return trainer.run(setting, rows)
    except torch.OutOfMemoryError:
        return None


def measure(trainer: Trainer, setting: Setting, rows: torch.Tensor, policy: str, storage: str) -> dict[str, Any]:
    """One line of the result."""
    if policy == "24gib":
        found = limited(trainer, setting, rows, storage)
    else:
        if policy == "resident":  # none, with 16-bit copies of all weights; comes last, the copies stay
            trainer.engine.make_resident()
        name = "none" if policy == "resident" else policy
        trainer.engine.policies = [name] * len(trainer.engine.layers)  # type: ignore[list-item]
        found = attempt(trainer, setting, rows) or {"error": "out of memory"}
    return {
        "policy": policy,
        "setting": setting.label,
        "batch": setting.batch,
        "accum": setting.accum,
        "seq": setting.seq,
        "layers": dict(Counter(trainer.engine.policies)),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--storage", choices=("nf4", "bf16"), required=True)
    parser.add_argument("--policies", default="none,mlp,full,24gib")
    parser.add_argument("--settings", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() when the process was started")
    options = parser.parse_args()
    imported = time.time()
    settings = parse_settings(options.settings)
    model, tokenizer = load_model(options.model, load_in_4bit=options.storage == "nf4")
    loaded = time.time()
    model = add_lora(model, rank=16, alpha=16)
    engine = Engine.attach(model)
    if isinstance(engine, Unsupported):
        raise SystemExit(f"no engine for this model: {engine.reason}")
    trainer = Trainer(engine, model)
    facts = {
        "import_s": round(imported - options.started, 1),
        "load_s": round(loaded - imported, 1),
        "attach_s": round(time.time() - loaded, 1),
        "groups": sorted({type(group.storage).__name__ for layer in engine.layers for group in layer.groups}),
        "versions": runtime.versions(),
        "device": runtime.device_facts(),
    }
    rows = all_rows(options.model, tokenizer, settings)
    for setting in settings:
        for policy in options.policies.split(","):
            line = measure(trainer, setting, rows[setting.label], policy, options.storage)
            with options.out.open("a") as out:
                out.write(json.dumps({**facts, **line}) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
