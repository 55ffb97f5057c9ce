"""Do engine and plain PEFT learn the same? 200 steps on the same batches, loss of every step side by side (one GPU).

    python benchmarks/engine_same_loss.py [--steps 200] [--rows 4] [--length 512]

A random model of the 1B shape in bfloat16 with LoRA, float32 adapters, AdamW. The batches are random motifs, repeated
with noise, so that there is something to learn. Three runs: the model's own forward, the engine, and the
model's own forward with adapters from another seed: the spread that a seed makes.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from engine_speed import SHAPES, model_of, plain_loss
from record import record

from whet.engine.forward import Engine
from whet.engine.spec import Unsupported

LEARNING_RATE = 2e-4


def batches(steps: int, rows: int, length: int) -> list[dict[str, torch.Tensor]]:
    """Each row repeats a random motif with noise."""
    draw = torch.Generator().manual_seed(5)
    found = []
    for _ in range(steps):
        motif = torch.randint(10, 2000, (rows, 32), generator=draw)
        ids = motif.repeat(1, length // 32)
        noise = torch.rand(ids.shape, generator=draw) < 0.1
        ids = torch.where(noise, torch.randint(10, 2000, ids.shape, generator=draw), ids).cuda()
        positions = torch.arange(length, device="cuda").repeat(rows, 1)
        found.append({"input_ids": ids, "position_ids": positions, "labels": ids.clone()})
    return found


def train(model: Any, work: list[dict[str, torch.Tensor]], engine: Engine | None) -> list[float]:
    """The loss of every step, nats a token."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    losses = []
    for batch in work:
        count = batch["labels"][:, 1:].numel()
        named = {f"{name}_BS": value for name, value in batch.items()}
        loss = (engine.loss_sum(**named) if engine else plain_loss(model, batch)) / count
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def fresh(seed: int) -> Any:
    model = model_of(SHAPES["1b"], SHAPES["1b"]["layers"])
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)
        elif "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    arguments = parser.parse_args()
    work = batches(arguments.steps, arguments.rows, arguments.length)
    plain = train(fresh(1), work, None)
    model = fresh(1)
    engine = Engine.attach(model)
    assert not isinstance(engine, Unsupported), engine
    ours = train(model, work, engine)
    other = train(fresh(2), work, None)
    gaps = [abs(a - b) for a, b in zip(plain, ours, strict=True)]
    spread = [abs(a - b) for a, b in zip(plain, other, strict=True)]
    figures = {
        "first_loss": plain[0],
        "last_loss": plain[-1],
        "mean_difference": sum(gaps) / len(gaps),
        "largest_difference": max(gaps),
        "seed_mean_difference": sum(spread) / len(spread),
        "seed_largest_difference": max(spread),
    }
    print(figures)
    record("engine_same_loss", **figures, plain=plain, engine=ours, other_seed=other)


if __name__ == "__main__":
    main()
