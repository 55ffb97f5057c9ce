"""The products of a layer's projection groups on one GPU: with the LoRA columns inside, against plain cuBLAS.

    python benchmarks/engine_gemm.py [--tokens 16384] [--seconds 1.0] [--check]

Llama-3-8B's four groups, bfloat16, LoRA columns padded to 64 as in whet/engine/weights.py. ``augmented`` multiplies
(T, K + 64) by (N, K + 64)^T forward and (T, N + 64) by (N + 64, K) backward, in the engine's strided buffers; ``plain``
is torch.mm without those columns; ``all`` is augmented and the two skinny products that fill them. The card is bound
by power, so each is run for ``seconds`` at a time and they take turns. ``rate_ratio`` compares TFLOP/s, every
multiplication counted: the bar is 0.97 over the layer. With --check the exit code is 1 below it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from record import record

GROUPS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}  # N, K
R = 64
TURNS = 2
BAR = 0.97
KINDS = ("plain", "augmented", "all")
Calls = dict[str, Callable[[], Any]]


def random(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.bfloat16, device="cuda")


def group_calls(tokens: int, n: int, k: int) -> Calls:
    """Forward and gradient of the input, once each."""
    x_TK, dy_TN, w_NK = random(tokens, k), random(tokens, n), random(n, k)
    xa, dya, buffer = random(tokens, k + R), random(tokens, n + R), random(n + R, k + R)
    y_TN, dx_TK = torch.empty_like(dy_TN), torch.empty_like(x_TK)

    def plain() -> None:
        torch.mm(x_TK, w_NK.t(), out=y_TN)
        torch.mm(dy_TN, w_NK, out=dx_TK)

    def augmented() -> None:
        torch.mm(xa, buffer[:n].t(), out=y_TN)
        torch.mm(dya, buffer[:, :k], out=dx_TK)

    def whole() -> None:
        torch.mm(xa[:, :k], buffer[n:, :k].t(), out=xa[:, k:])
        torch.mm(xa, buffer[:n].t(), out=y_TN)
        torch.mm(dya[:, :n], buffer[:n, k:], out=dya[:, n:])
        torch.mm(dya, buffer[:, :k], out=dx_TK)

    return {"plain": plain, "augmented": augmented, "all": whole}


def sustained(call: Callable[[], Any], seconds: float) -> float:
    """Milliseconds of a call, over calls back to back for so long."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    begin.record()
    for _ in range(3):
        call()
    end.record()
    torch.cuda.synchronize()
    count = max(1, round(seconds * 1e3 / (begin.elapsed_time(end) / 3)))
    begin.record()
    for _ in range(count):
        call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / count


def flops(kind: str, tokens: int, n: int, k: int) -> int:
    """Of ``group_calls``; the skinny products are not counted."""
    extra = 0 if kind == "plain" else R
    return 2 * tokens * (n * (k + extra) + k * (n + extra))


def measured(tokens: int, seconds: float, name: str) -> dict[str, dict[str, Any]]:
    """Milliseconds and TFLOP/s of each kind for one group, the kinds in turns."""
    n, k = GROUPS[name]
    calls = group_calls(tokens, n, k)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(TURNS):
        for kind in KINDS:
            times[kind].append(sustained(calls[kind], seconds))
    found = {}
    for kind, repeats in times.items():
        ms = statistics.mean(repeats)
        rate = flops(kind, tokens, n, k) / ms / 1e9
        found[kind] = {"ms": round(ms, 4), "repeats": [round(t, 4) for t in repeats], "tflops": round(rate, 1)}
    print(name, {kind: (one["ms"], one["tflops"]) for kind, one in found.items()}, flush=True)
    return found


def summary(groups: dict[str, Any], tokens: int) -> dict[str, float]:
    """Over the four groups of a layer."""
    ms = {kind: sum(one[kind]["ms"] for one in groups.values()) for kind in KINDS}
    work = {kind: sum(flops(kind, tokens, n, k) for n, k in GROUPS.values()) for kind in KINDS}
    return {
        "layer_plain_ms": round(ms["plain"], 3),
        "layer_augmented_ms": round(ms["augmented"], 3),
        "layer_all_ms": round(ms["all"], 3),
        "rate_ratio": round(work["augmented"] / ms["augmented"] / (work["plain"] / ms["plain"]), 4),
        "time_ratio": round(ms["plain"] / ms["augmented"], 4),
        "time_ratio_all": round(ms["plain"] / ms["all"], 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    sustained(group_calls(asked.tokens, *GROUPS["o"])["plain"], 2 * asked.seconds)  # the card gets warm
    groups = {name: measured(asked.tokens, asked.seconds, name) for name in GROUPS}
    found = summary(groups, asked.tokens)
    print(found)
    record("engine_gemm", tokens=asked.tokens, lora_columns=R, bar=BAR, summary=found, groups=groups)
    return 1 if asked.check and found["rate_ratio"] < BAR else 0


if __name__ == "__main__":
    sys.exit(main())
