"""Do bfloat16 weights with float32 masters move as float32 weights do? A full fine-tune, side by side.

    python benchmarks/full_finetune.py [--steps 200] [--rate 1e-6] [--rows 1] [--length 256] [--out NAME]

The starter on the sample task's rows, the same packed batches for every run, a constant rate, AdamW (betas 0.9 and
0.999, no weight decay), gradients clipped to a norm of 1. All runs start from the same weights, those of the starter
rounded to bfloat16:

``float32``     weights, forward and update in float32: what the others are compared with.
``masters``     bfloat16 weights with float32 masters, by the engine: whet's. (At the end whet rounds them at random.)
``stochastic``  bfloat16 weights; the update in float32 is rounded up or down at random, by what is left over.
``plain``       bfloat16 weights updated by torch's AdamW with moments in bfloat16, as without masters.

All but ``masters`` run the model's own forward. The figure is the cosine between the total update (weights at the end
less weights at the start) of a run and that of ``float32``; for ``masters`` of the masters, and of the weights that are
saved. Beside it the length of the update against float32's, the loss in training, the loss of the first batches in
float32 arithmetic after training (masters also as they are, and rounded at random), and seconds a step.
On a GPU float32 has no TF32, and 16 bits no autocast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from engine_same_loss import batches
from record import record, spread

from whet import runtime
from whet.engine.forward import Engine
from whet.engine.loss import labelled_loss
from whet.models.load import load_model
from whet.models.parts import halves
from whet.train.masters import MasterOptimizer, round_at_random

RUNS = ("float32", "masters", "stochastic", "plain")
AdamW = partial(torch.optim.AdamW, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
TESTED = 40  # batches whose loss is taken after training
ENDS = 10  # steps whose mean is the first and the last loss
Weights = list[torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-6)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--runs", default=",".join(RUNS))
    parser.add_argument("--out", default="full_finetune")
    asked = parser.parse_args()
    steps = batches(asked.steps, asked.rows, asked.length)
    target: Weights = []
    figures: dict[str, Any] = {}
    for name in asked.runs.split(","):
        start, end, saved, timing = train(name, steps, asked.rate)
        update = [b - a for a, b in zip(start, end, strict=True)]
        target = target or update
        timing["loss_after"] = {kind: loss_of(weights, steps[:TESTED]) for kind, weights in kept_as(end, saved).items()}
        figures[name] = {"cosine": cosine(update, target), "length_ratio": norm(update) / norm(target), **timing}
        if saved is not None:
            moved = [b - a for a, b in zip(start, saved, strict=True)]
            figures[name]["cosine_of_saved_weights"] = cosine(moved, target)
        print(name, figures[name], flush=True)
    settings = {"steps": asked.steps, "rate": asked.rate, "rows": asked.rows, "length": asked.length}
    record(asked.out, settings=settings, model="starter", runs=figures)


def train(name: str, steps: list[Any], rate: float) -> tuple[Weights, Weights, Weights | None, dict[str, Any]]:
    """One run: weights before, after (masters where there are any), the saved ones beside masters, and figures."""
    runtime.seed_everything(3407)
    dtype = torch.float32 if name == "float32" else torch.bfloat16
    model, _ = load_model("starter", dtype=torch.bfloat16, training=True)
    model = model.to(torch.bfloat16).to(dtype).train()
    parameters = list(model.parameters())
    start = copy_of(parameters)
    make = partial(AdamW, lr=rate, fused=True)
    optimizer: Any = Stochastic(parameters, make) if name == "stochastic" else make(parameters)
    if name == "masters":
        optimizer = MasterOptimizer([{"params": parameters}], make)
    loss_sum, losses, seconds = by_engine(model) if name == "masters" else by_model(model), [], []
    for batch in steps:
        began = time.perf_counter()
        loss = loss_sum(batch)
        (loss / (batch["labels"] != -100).sum()).backward()
        if name == "masters":
            optimizer.clip_(1.0)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()) / int((batch["labels"] != -100).sum()))
        seconds.append(time.perf_counter() - began)
    ends = {"first": sum(losses[:ENDS]) / ENDS, "last": sum(losses[-ENDS:]) / ENDS}
    timing = {"loss": ends, "seconds_per_step": {k: v for k, v in spread(seconds).items() if k != "repeats"}}
    if name == "masters":
        masters = [optimizer.masters_of(p).double() for p in parameters]
        return start, masters, copy_of(parameters), timing
    return start, copy_of(parameters), None, timing


def by_engine(model: Any) -> Callable[[Any], torch.Tensor]:
    """The sum of a batch's losses."""
    engine = Engine.attach(model)
    assert isinstance(engine, Engine), engine
    return lambda batch: engine.loss_sum(batch["input_ids"], batch["position_ids"], batch["labels"])


def by_model(model: Any) -> Callable[[Any], torch.Tensor]:
    """The same by the model's own forward."""
    parts = halves(model)

    def loss_sum(batch: Any) -> torch.Tensor:
        ids, positions = batch["input_ids"], batch["position_ids"]
        hidden_BTD = parts.backbone(input_ids=ids, position_ids=positions, use_cache=False)[0]
        return labelled_loss(hidden_BTD, parts.head, batch["labels"])

    return loss_sum


def kept_as(end: Weights, saved: Weights | None) -> dict[str, Weights]:
    """The ways in which masters can be written; of a run without masters, its weights."""
    if saved is None:
        return {"weights": end}
    at_random = [round_at_random(weight.float()).double() for weight in end]
    return {"masters": end, "rounded to the nearest": saved, "rounded at random": at_random}


@torch.no_grad()
def loss_of(weights: Weights, steps: list[Any]) -> float:
    """Mean loss of the starter with these weights, in float32."""
    model, _ = load_model("starter", dtype=torch.float32)
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        parameter.copy_(weight)
    total, count, loss_sum = 0.0, 0, by_model(model)
    for batch in steps:
        total += float(loss_sum(batch))
        count += int((batch["labels"] != -100).sum())
    return total / count


class Stochastic:
    """AdamW in float32 on a float32 copy of the weights of this moment; the result is rounded at random."""

    def __init__(self, parameters: list[torch.nn.Parameter], make: Any) -> None:
        self.parameters = parameters
        self.wide = [torch.nn.Parameter(p.detach().float()) for p in parameters]
        self.inner = make(self.wide)

    @torch.no_grad()
    def step(self) -> None:
        for narrow, wide in zip(self.parameters, self.wide, strict=True):
            assert narrow.grad is not None
            wide.copy_(narrow)
            wide.grad = narrow.grad.float()
        self.inner.step()
        for narrow, wide in zip(self.parameters, self.wide, strict=True):
            narrow.copy_(round_at_random(wide))

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def copy_of(tensors: Any) -> Weights:
    """float64 copies."""
    return [tensor.detach().double() for tensor in tensors]


def norm(tensors: Weights) -> float:
    """Length of all of them as one vector."""
    return float(torch.stack([(one * one).sum() for one in tensors]).sum().sqrt())


def cosine(one: Weights, other: Weights) -> float:
    """Of the angle between them as vectors; 0 where one of them is zero."""
    product = float(torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum())
    lengths = norm(one) * norm(other)
    return product / lengths if lengths else 0.0


if __name__ == "__main__":
    main()
