"""One step of AdamW on a model's weights, on one card: whet's masters by the kernel and by torch, and torch alone.

``kernel``    bfloat16 weights with float32 masters: clipping and the update, by the kernel.
``library``   the same by torch's fused AdamW, in stretches (as on cards without Triton).
``float32``   float32 weights, torch's fused AdamW: no masters, 16 bytes a parameter at rest.
``bfloat16``  bfloat16 weights and moments, torch's fused AdamW: small updates are lost. TRL's and Axolotl's default.

Gradients are in bfloat16, those of ``float32`` in float32, clipped to a norm of 1 by whet or by torch. Each run has its
memory at the highest point of a step, over what is there before it. Numbers of other cards and other runs are not
compared: all are of one process.

    python benchmarks/masters_step.py --out masters_step
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from record import record, spread

import whet.train.masters as masters_module
from whet.engine.kernels.dispatch import uses_triton
from whet.train.masters import MasterOptimizer

RUNS = ("kernel", "library", "float32", "bfloat16")
MAKE = partial(torch.optim.AdamW, lr=1e-6, weight_decay=0.01, fused=True)
WARMUP = 3
GIB = 2**30


def shapes(layers: int) -> list[tuple[int, ...]]:
    """Qwen2.5-3B's, with so many of its 36 layers."""
    hidden, keys, mlp, vocab = 2048, 256, 11008, 151936
    attention = [(hidden, hidden), (hidden,), *[(keys, hidden), (keys,)] * 2, (hidden, hidden)]
    layer = [*attention, (mlp, hidden), (mlp, hidden), (hidden, mlp), (hidden,), (hidden,)]
    return [(vocab, hidden), *layer * layers, (hidden,)]


def prepared(name: str, layers: int, device: str) -> tuple[list[torch.nn.Parameter], Callable[[], None]]:
    """Weights with their gradients, and one step."""
    dtype = torch.float32 if name == "float32" else torch.bfloat16
    parameters = []
    for shape in shapes(layers):
        parameter = torch.nn.Parameter(torch.randn(shape, dtype=dtype, device=device).mul_(0.02))
        parameter.grad = torch.randn(shape, dtype=dtype, device=device)
        parameters.append(parameter)
    if name in ("kernel", "library"):
        masters_module.uses_triton = uses_triton if name == "kernel" else lambda _: False
        optimizer = MasterOptimizer([{"params": parameters}], MAKE)

        def step() -> None:
            optimizer.clip_(1.0)
            optimizer.step()

        return parameters, step
    plain = MAKE(parameters)

    def plain_step() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        plain.step()

    return parameters, plain_step


def measure(name: str, layers: int, repeats: int, device: str) -> dict[str, Any]:
    """Seconds of a step, and its memory."""
    cuda = device == "cuda"
    parameters, step = prepared(name, layers, device)
    for _ in range(WARMUP):
        step()
    seconds = []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    count = sum(p.numel() for p in parameters)
    figures: dict[str, Any] = {"parameters": count, "seconds": spread(seconds, 6)}
    if cuda:
        figures["gib_at_rest"] = round(before / GIB, 3)
        figures["gib_for_the_step"] = round((torch.cuda.max_memory_allocated() - before) / GIB, 3)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", default="masters_step")
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for name in RUNS if device == "cuda" else RUNS[1:]:
        found[name] = measure(name, asked.layers, asked.repeats, device)
        print(name, found[name], flush=True)
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    record(asked.out, settings={"layers": asked.layers, "repeats": asked.repeats}, runs=found)


if __name__ == "__main__":
    main()
