"""The engine's elementwise kernels on one GPU: their share of the bandwidth of a plain copy.

    python benchmarks/engine_kernels.py [--tokens 16384] [--check]

Llama-3-8B shapes, bfloat16, buffers with 64 spare columns as in the engine. Bytes count each input once and each
output once. Every figure is the median of 20 groups of 10 calls, timed by CUDA events behind a short sleep of the GPU,
so that the host is ahead; ``host_us`` is what one call costs the host. With --check the exit code is 1 where a kernel
is below its bar.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from record import record, spread

from whet.engine.kernels.copy import copy_rows
from whet.engine.kernels.cross_entropy import cross_entropy_rows_
from whet.engine.kernels.glu import glu, glu_backward_
from whet.engine.kernels.nf4 import dequantise_nf4
from whet.engine.kernels.norm import rms_norm, rms_norm_backward
from whet.engine.kernels.rope import rope_
from whet.engine.quantised import quantise_nf4

HIDDEN, MLP, HEADS, KV_HEADS, HEAD, VOCABULARY = 4096, 14336, 32, 8, 128, 128256
SPARE = 64  # LoRA columns of a group's buffer
LOSS_ROWS = 1024
GROUPS, CALLS = 20, 10
SLEEP_CYCLES = 4_000_000  # about 2 ms: the host enqueues a group of calls meanwhile


class Kernel(NamedTuple):
    """``bar`` is the least share of the copy's bandwidth, None where there is no bar."""

    name: str
    bytes: int
    bar: float | None
    call: Callable[[], Any]


def random(rows: int, columns: int, spare: int = 0) -> torch.Tensor:
    """Normal bfloat16 rows, ``spare`` columns between them."""
    return torch.randn(rows, columns + spare, dtype=torch.bfloat16, device="cuda")[:, :columns]


def kernels(tokens: int) -> Iterator[Kernel]:
    yield from norms(tokens)
    qkv = random(tokens, (HEADS + 2 * KV_HEADS) * HEAD, SPARE).unflatten(1, (-1, HEAD))[:, : HEADS + KV_HEADS]
    angle = torch.rand(tokens, HEAD // 2, device="cuda")
    for dtype in (torch.bfloat16, torch.float32):
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        size = 2 * 2 * qkv.numel() + 2 * cos.numel() * cos.element_size()
        yield Kernel(f"rope, {dtype} tables", size, 0.85, lambda cos=cos, sin=sin: rope_(qkv, cos, sin))
    gu, h = random(tokens, 2 * MLP, SPARE), random(tokens, MLP, SPARE)
    for activation in ("silu", "gelu_tanh"):
        yield Kernel(f"glu {activation}", 2 * 3 * h.numel(), 0.85, lambda a=activation: glu(gu, h, a))
        yield Kernel(
            f"glu_backward {activation}", 2 * 6 * h.numel(), 0.85, lambda a=activation: glu_backward_(h, gu, a)
        )
    narrow = random(tokens, HIDDEN)
    wide = random(tokens, HIDDEN, SPARE)
    yield Kernel("copy_rows into a wider buffer", 4 * narrow.numel(), 0.85, lambda: copy_rows(narrow, wide))
    yield Kernel("torch copy_ into a wider buffer", 4 * narrow.numel(), None, lambda: wide.copy_(narrow))
    yield from others()


def norms(tokens: int) -> Iterator[Kernel]:
    x, dy, residual = (random(tokens, HIDDEN) for _ in range(3))
    out, weight = random(tokens, HIDDEN, SPARE), random(1, HIDDEN)[0]
    dx, dweight = torch.empty_like(x), torch.zeros(HIDDEN, device="cuda")
    for offset in (0.0, 1.0):
        _, rstd = rms_norm(x, weight, 1e-5, offset)
        yield Kernel(f"norm {offset:.0f}", 4 * x.numel(), 0.85, lambda o=offset: rms_norm(x, weight, 1e-5, o, out))
        yield Kernel(
            f"norm_backward {offset:.0f} with residual",
            8 * x.numel(),
            0.85,
            lambda o=offset, r=rstd: rms_norm_backward(dy, x, weight, r, o, residual, dx),
        )
        yield Kernel(
            f"norm_backward {offset:.0f} with residual, trained",
            8 * x.numel(),
            None,
            lambda o=offset, r=rstd: rms_norm_backward(dy, x, weight, r, o, residual, dx, dweight),
        )
    heads = random(tokens, (HEADS + 2 * KV_HEADS) * HEAD, SPARE).unflatten(1, (-1, HEAD))[:, :HEADS]
    normed, scale = torch.empty_like(heads), random(1, HEAD)[0]
    _, rstd = rms_norm(heads, scale, 1e-6)
    yield Kernel("norm of heads", 4 * heads.numel(), 0.85, lambda: rms_norm(heads, scale, 1e-6, 0.0, normed))
    yield Kernel(
        "norm_backward of heads",
        6 * heads.numel(),
        0.85,
        lambda: rms_norm_backward(normed, heads, scale, rstd, 0.0, None, normed),
    )


def others() -> Iterator[Kernel]:
    """NF4 weights and the loss of one chunk of rows."""
    for rows, double in ((MLP, False), (HIDDEN, False), (MLP, True), (HIDDEN, True)):
        columns = HIDDEN if rows == MLP else MLP
        weight, out = quantise_nf4(random(rows, columns).contiguous(), double), random(rows, columns, SPARE)
        size = sum(tensor.numel() * tensor.element_size() for tensor in weight.tensors()) + 2 * out.numel()
        name = f"dequantise {rows} x {columns}{', absmax in 8 bits' if double else ''}"
        yield Kernel(name, size, 0.70, lambda w=weight, o=out: dequantise_nf4(w, o))
    logits, targets = random(LOSS_ROWS, VOCABULARY), torch.randint(0, VOCABULARY, (LOSS_ROWS,), device="cuda")
    size = 4 * logits.numel()
    yield Kernel("cross entropy in place", size, None, lambda: cross_entropy_rows_(logits, targets))


def measure(call: Callable[[], Any]) -> tuple[list[float], float]:
    """Milliseconds of a call on the GPU, one figure per group; median microseconds of a call on the host."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times, host = [], []
    for _ in range(GROUPS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(SLEEP_CYCLES)
        began = time.perf_counter()
        begin.record()
        for _ in range(CALLS):
            call()
        end.record()
        host.append((time.perf_counter() - began) / CALLS * 1e6)
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / CALLS)
    return times, sorted(host)[GROUPS // 2]


def copy_rate() -> float:
    """GB/s of a plain copy of 512 MiB, reads and writes counted."""
    source = torch.randn(2**28, device="cuda").bfloat16()
    target = torch.empty_like(source)
    times, _ = measure(lambda: target.copy_(source))
    return 4 * source.numel() / (spread(times, 6)["median"] * 1e6)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=16384)
    options.add_argument("--check", action="store_true")
    asked = options.parse_args()
    copy = copy_rate()
    print(f"{'plain copy':34} {copy:7.0f} GB/s")
    found, below = {}, []
    for kernel in kernels(asked.tokens):
        times, host_us = measure(kernel.call)
        rate = kernel.bytes / (spread(times, 6)["median"] * 1e6)
        found[kernel.name] = {
            "ms": spread(times),
            "gb_per_s": round(rate),
            "of_copy": round(rate / copy, 3),
            "bar": kernel.bar,
            "host_us": round(host_us, 1),
        }
        print(f"{kernel.name:34} {rate:7.0f} GB/s  {rate / copy:6.1%} of a copy  {host_us:6.1f} us on the host")
        if kernel.bar is not None and rate < kernel.bar * copy:
            below.append(kernel.name)
    record("engine_kernels", tokens=asked.tokens, copy_gb_per_s=round(copy), kernels=found, below_bar=below)
    return 1 if below and asked.check else 0


if __name__ == "__main__":
    sys.exit(main())
