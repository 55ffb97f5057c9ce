"""whet's part of ``engine_h200.py``: one process, one storage of the weights, several policies and settings.

The training loop does what the peers' trainers do in a step: rows to the GPU, loss and gradients, clipping at 1,
AdamW with a linear schedule, the loss read back. Texts are those of the peers (``engine_h200_rows.py``). Documents are
packed by whet's own packing into rows of the setting's length, and do not see each other.

A policy is what all layers keep (``none``, ``mlp``, ``full``), or

* ``resident``: ``none``, and 16-bit copies of all NF4 weights;
* ``24gib``: the plan's fastest for 24 GiB of reserved memory, which the allocator may not exceed;
* ``fit``: the plan's fastest for the card's free memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from engine_h200_rows import Setting, document_rows, full_rows, parse_settings
from transformers import get_linear_schedule_with_warmup

from whet import runtime
from whet.data.loader import Layout, PackedDataset, collate, label_rows
from whet.data.prepare import prepare
from whet.engine.forward import Engine
from whet.engine.memory import Work
from whet.engine.plan import choose
from whet.engine.rates import H200
from whet.engine.shape import Storage, shape_of_model
from whet.engine.spec import Unsupported
from whet.models.adapters import add_lora
from whet.models.load import load_model
from whet.text.encode import Encoded
from whet.train.flat import FlatAdapters
from whet.train.optim import FlatAdamW
from whet.train.streaming import keep_in_main_memory

GIB = 2**30
LIMIT = 24 * GIB  # of policy "24gib"
MARGIN = 2 * GIB  # of policy "fit": CUDA's own memory, cuDNN's work space
LOWER = {"none": "mlp", "mlp": "full"}
RATE, DECAY, CLIP = 2e-4, 0.01, 1.0  # the peers'
Batch = dict[str, Any]  # as data/loader.py makes it


class Step(NamedTuple):
    """An optimizer step's micro-batches; positions that predict a label, and tokens without padding."""

    batches: list[Batch]
    labelled: int
    tokens: int


def steps_of(setting: Setting, folder: str, tokenizer: Any) -> list[Step]:
    """All steps of a setting."""
    batches = (
        packed_batches(setting, folder, tokenizer) if setting.documents else full_batches(setting, folder, tokenizer)
    )
    groups = [batches[first : first + setting.accum] for first in range(0, len(batches), setting.accum)]
    return [_step(group) for group in groups[: setting.steps]]


def full_batches(setting: Setting, folder: str, tokenizer: Any) -> list[Batch]:
    """Rows of one length, every token trained."""
    rows = torch.tensor(full_rows(setting, folder, tokenizer)).split(setting.batch)
    positions_BS = torch.arange(setting.seq).repeat(setting.batch, 1)
    rows_N, tokens = label_rows(rows[0]), setting.batch * setting.seq
    layout = Layout((setting.seq,) * setting.batch, tokens, len(rows_N))
    others = {"position_ids": positions_BS, "rows": rows_N, "layout": layout}
    return [{"input_ids": ids_BS, "labels": ids_BS, **others} for ids_BS in rows]


def packed_batches(setting: Setting, folder: str, tokenizer: Any) -> list[Batch]:
    """Documents in rows, the rows in random order."""
    documents = [Encoded(ids, ((0, len(ids)),)) for ids in document_rows(setting, folder, tokenizer)]
    rows = PackedDataset(prepare(documents, setting.seq), setting.seq)
    order = random.Random(setting.label).sample(range(len(rows)), len(rows))
    groups = [order[first : first + setting.batch] for first in range(0, len(order), setting.batch)]
    return [collate([rows[number] for number in group], pad_id=tokenizer.pad_token_id) for group in groups]


def _step(batches: list[Batch]) -> Step:
    layouts = [batch["layout"] for batch in batches]
    return Step(batches, sum(layout.labelled for layout in layouts), sum(layout.real for layout in layouts))


class Trainer:
    """The engine with its optimizer; every ``run`` starts from the same adapters."""

    def __init__(self, engine: Engine, model: Any) -> None:
        self.engine = engine
        self.flat = FlatAdapters([parameter for parameter in model.parameters() if parameter.requires_grad])
        self.initial = self.flat.values.cpu().clone()
        self.device = self.flat.values.device
        engine.changed()

    def use(self, policies: list[str], resident: list[int], tile: int | None = None) -> None:
        """Policies of the layers, the NF4 layers that have a 16-bit copy, rows of the MLP at once."""
        self.engine.policies = list(policies)  # type: ignore[assignment]
        self.engine.tile = tile
        self.engine.set_resident([number in resident for number in range(len(self.engine.layers))])

    def run(self, setting: Setting, steps: list[Step]) -> dict[str, Any]:
        """Step times, losses and peaks of one setting under the engine's policies."""
        self._reset()
        optimizer = FlatAdamW(self.flat, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
        schedule = get_linear_schedule_with_warmup(optimizer, 2, setting.steps)
        optimizer.zero_grad()
        losses, ends = [], [self._now()]
        for step in steps:
            loss = torch.zeros((), device=self.device)
            for batch in step.batches:
                loss += self._micro_batch(batch, step.labelled)
            self.flat.clip_(CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(round(float(loss), 4))
            ends.append(self._now())
        return {
            "step_s": [round(end - start, 5) for start, end in pairwise(ends)],
            "tokens": [step.tokens for step in steps],
            "loss_first": losses[0],
            "loss_last": losses[-1],
            "loss": losses,
            **self.before,
            **self._peaks("peak"),
        }

    def _micro_batch(self, batch: Batch, labelled: int) -> torch.Tensor:
        batch = dict(batch)
        if self.device.type == "cuda":
            tensors = ((name, part) for name, part in batch.items() if isinstance(part, torch.Tensor))
            batch |= {name: part.pin_memory().to(self.device, non_blocking=True) for name, part in tensors}
        ids_BS, positions_BS, labels_BS = batch["input_ids"], batch["position_ids"], batch["labels"]
        loss = self.engine.loss_sum(ids_BS, positions_BS, labels_BS, batch["rows"], batch["layout"].lengths) / labelled
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


def planned(
    engine: Engine, steps: list[Step], storage: str, budget: int
) -> tuple[list[str], list[int], int | None, dict[str, float]]:
    """The plan's policies, copies and tiles for a number of reserved bytes, and what the plan promises."""
    stored: Storage = "nf4" if storage == "nf4" else "dense"
    shape = shape_of_model(engine.spec, storage=stored)
    plan = choose(shape, max(map(work_of, steps), key=lambda work: work.tokens), budget, H200, "fastest")
    promised = {"peak_alloc_gib": plan.peak_bytes / GIB, "tokens_per_second": plan.tokens_per_second}
    copies = [number for number, copy in enumerate(plan.resident) if copy]
    return list(plan.policies), copies, plan.tile, {name: round(value, 2) for name, value in promised.items()}


def work_of(step: Step) -> Work:
    """A step's largest micro-batch, as the plan counts it."""
    batch = max(step.batches, key=lambda one: one["input_ids"].numel())
    lengths, labelled = batch["layout"].lengths, batch["layout"].labelled
    squares = float(sum(length**2 for length in lengths))
    return Work(sum(lengths), labelled, squares, len(step.batches), len(set(lengths)) == 1)


def limited(trainer: Trainer, setting: Setting, steps: list[Step], storage: str, policy: str) -> dict[str, Any]:
    """A run by the plan; where it does not fit after all, the copies go, then layers keep less."""
    trainer.use(["full"] * len(trainer.engine.layers), [])
    budget, total = budget_of(trainer, policy)
    policies, copies, tile, promised = planned(trainer.engine, steps, storage, budget)
    facts = {"budget_gib": round(budget / GIB, 2), "planned": promised}
    if total and policy == "24gib":
        torch.cuda.set_per_process_memory_fraction(LIMIT / total)
    try:
        for retries in range(2 * len(policies) + 1):
            measured = attempt(trainer, setting, steps, policies, copies, tile)
            if measured is not None:
                return {**measured, **facts, "copies": len(copies), "tile": tile, "out_of_memory_before": retries}
            keeping = [number for number, name in enumerate(policies) if name in LOWER]
            if not copies and not keeping:
                break
            if not copies:
                policies[keeping[0]] = LOWER[policies[keeping[0]]]
            copies = []
        return {"error": "out of memory", **facts}
    finally:
        if total:
            torch.cuda.set_per_process_memory_fraction(1.0)


def budget_of(trainer: Trainer, policy: str) -> tuple[int, int]:
    """Bytes that the allocator may reserve, and the card's; on a CPU 24 GiB, and 0."""
    if trainer.device.type != "cuda":
        return LIMIT, 0
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return (LIMIT if policy == "24gib" else free + torch.cuda.memory_reserved() - MARGIN), total


def attempt(
    trainer: Trainer,
    setting: Setting,
    steps: list[Step],
    policies: list[str],
    copies: list[int],
    tile: int | None = None,
) -> dict[str, Any] | None:
    """A run; None where memory does not suffice."""
    try:
        trainer.use(policies, copies, tile)
        return trainer.run(setting, steps)
    except torch.OutOfMemoryError:
        return None


def measure(trainer: Trainer, setting: Setting, steps: list[Step], policy: str, storage: str) -> dict[str, Any]:
    """One line of the result."""
    count = len(trainer.engine.layers)
    if policy in ("24gib", "fit"):
        found = limited(trainer, setting, steps, storage, policy)
    else:
        name = "none" if policy == "resident" else policy
        copies = list(range(count)) if policy == "resident" else []
        found = attempt(trainer, setting, steps, [name] * count, copies) or {"error": "out of memory"}
    return {"policy": policy, **setting.facts, "layers": dict(Counter(trainer.engine.policies)), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--storage", choices=("nf4", "bf16"), required=True)
    parser.add_argument("--streamed", action="store_true", help="the layers' weights stay in main memory")
    parser.add_argument("--policies", default="none+mlp+full+24gib")
    parser.add_argument("--settings", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() when the process was started")
    options = parser.parse_args()
    imported = time.time()
    settings = parse_settings(options.settings)
    model, tokenizer = load_model(options.model, load_in_4bit=options.storage == "nf4", on_cpu=options.streamed)
    loaded = time.time()
    model = add_lora(model, rank=16, alpha=16)
    if options.streamed:
        keep_in_main_memory(model, runtime.device())
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
    for setting in settings:
        steps = steps_of(setting, options.model, tokenizer)
        for policy in options.policies.split("+"):
            line = measure(trainer, setting, steps, policy, options.storage)
            with options.out.open("a") as out:
                out.write(json.dumps({**facts, **line}) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
