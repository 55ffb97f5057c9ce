"""The products of a decode step on one GPU, against cuBLAS: which tiling gemv_triton.py should take.

    python benchmarks/decode_kernels.py [--out FOLDER]

Llama-3-8B's weights, 1 and 16 rows of x, bfloat16 and NF4 with double quantisation. Each weight of a launch is one of
several copies, used in turn, so that none is still in the L2 cache. A tiling is compared with float64 first; one that
does not compile, or is wrong, is named and not timed. A tiling whose last number is 16 takes one row through the tensor
cores as well. Calls are captured in a CUDA graph: 20 launches, medians of 15.
Writes decode_kernels.json: every time, and the fastest tiling by the sum over all shapes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from record import facts

from whet.engine.kernels import gemv_nf4_triton, gemv_triton
from whet.engine.kernels.gemv import Weight, dense
from whet.engine.kernels.gemv_triton import Tiling
from whet.engine.quantised import quantise_nf4

HIDDEN, MLP, KV, VOCAB = 4096, 14336, 1024, 128256
GROUPS = {
    "qkv": ((HIDDEN, KV, KV), HIDDEN),
    "o": ((HIDDEN,), HIDDEN),
    "gate_up": ((MLP, MLP), HIDDEN),
    "down": ((HIDDEN,), MLP),
    "head": ((VOCAB,), HIDDEN),
}
TIMES = {"qkv": 32, "o": 32, "gate_up": 32, "down": 32, "head": 1}  # in a step of 32 layers
TILINGS = {
    ("bf16", 1): [Tiling(4, 1024, 4), Tiling(2, 1024, 4), Tiling(8, 512, 4), Tiling(1, 2048, 4), Tiling(4, 512, 2),
                  Tiling(4, 2048, 8), Tiling(32, 128, 4, 4, 16), Tiling(16, 256, 4, 4, 16)],
    ("bf16", 16): [Tiling(32, 128, 4, 4), Tiling(16, 256, 4, 4), Tiling(32, 256, 4, 3), Tiling(64, 128, 4, 4),
                   Tiling(16, 256, 2, 4)],
    ("nf4", 1): [Tiling(8, 1024, 4), Tiling(4, 2048, 4), Tiling(4, 1024, 4), Tiling(32, 128, 8, 1, 16),
                 Tiling(32, 128, 4, 1, 16), Tiling(16, 256, 4, 1, 16)],
    ("nf4", 16): [Tiling(32, 128, 4), Tiling(32, 128, 8), Tiling(16, 256, 4), Tiling(64, 128, 8)],
}  # fmt: skip
COPIES = 8  # of a group's weights, that launches take in turn: the L2 cache holds none of them
LAUNCHES, REPEATS, PROCESSES = 20, 15, 12
Launch = Callable[[int], None]  # the number of a copy of the weights


def measure(launch: Launch, copies: int) -> float:
    """Milliseconds of a launch."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(LAUNCHES):
            launch(number % copies)
    found = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / LAUNCHES)
    return statistics.median(found)


def weights_of(kind: str, name: str, copies: int) -> tuple[list[list[Weight]], int]:
    """Copies of a group's weights, and the bytes of one."""
    widths, k = GROUPS[name]
    made = []
    for _ in range(copies):
        group = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02 for n in widths]
        made.append([Weight(quantise_nf4(w, double=True) if kind == "nf4" else w) for w in group])
    tensors = [w.w_NK.tensors() if kind == "nf4" else [w.w_NK] for w in made[0]]
    size = sum(t.numel() * t.element_size() for several in tensors for t in several)
    return made, size


def compile_one(task: tuple[str, int, str, Tiling]) -> None:
    """In a process of its own: what Triton compiles here lies on the disk afterwards."""
    kind, rows, name, tiling = task
    made, _ = weights_of(kind, name, 1)
    widths, k = GROUPS[name]
    x = torch.zeros(rows, k, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(rows, sum(widths), device="cuda", dtype=torch.bfloat16)
    try:
        (gemv_nf4_triton if kind == "nf4" else gemv_triton).project(x, made[0], out, tiling=tiling)
    except Exception as error:  # named when it is measured
        print(task, type(error).__name__, flush=True)


def names_of(kind: str) -> list[str]:
    return [name for name in GROUPS if kind == "bf16" or name != "head"]


def case(kind: str, rows: int, name: str) -> dict[str, Any]:
    """Every tiling and cuBLAS on one group of weights."""
    made, size = weights_of(kind, name, 1 if name == "head" else COPIES)
    widths, k = GROUPS[name]
    x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(rows, sum(widths), device="cuda", dtype=torch.bfloat16)
    wanted = torch.cat([x.double() @ dense(w.w_NK, torch.float32).double().t() for w in made[0]], 1)
    kernel = gemv_nf4_triton.project if kind == "nf4" else gemv_triton.project
    found: dict[str, Any] = {"bytes": size}
    for tiling in TILINGS[kind, rows]:
        key = "x".join(map(str, tiling))
        try:
            out.fill_(float("nan"))
            kernel(x, made[0], out, tiling=tiling)
            error = float((out.double() - wanted).abs().max() / wanted.abs().max())
            if not error < 0.02:
                found[key] = {"problem": f"error {error:.3g}"}
                continue
            ms = measure(lambda n, t=tiling: kernel(x, made[n], out, tiling=t), len(made))
        except Exception as error:  # whatever the compiler says: the tiling is named and left out
            found[key] = {"problem": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}
            continue
        found[key] = {"ms": round(ms, 5), "gb_per_s": round(size / ms / 1e6)}
    if kind == "bf16":
        parts = out.split(list(widths), dim=1)
        ms = measure(
            lambda n: [torch.mm(x, w.w_NK.t(), out=part) for w, part in zip(made[n], parts, strict=True)], len(made)
        )
        found["cublas"] = {"ms": round(ms, 5), "gb_per_s": round(size / ms / 1e6)}
    return found


def total(cases: dict[str, Any], key: str) -> float:
    """Milliseconds of all products of a step."""
    return sum(TIMES[name] * found.get(key, {}).get("ms", float("inf")) for name, found in cases.items())


def copy_rate() -> float:
    """GB/s of a plain copy, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / measure(lambda _: target.copy_(source), 1) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    folder = parser.parse_args().out
    tasks = [
        (kind, rows, name, tiling)
        for (kind, rows), tilings in TILINGS.items()
        for tiling in tilings
        for name in ("qkv", "o", "gate_up")  # one for each number of weights in a launch
    ]
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("fork")) as pool:  # before CUDA begins
        jobs = [pool.submit(compile_one, task) for task in tasks]
        lost = sum(job.exception() is not None for job in jobs)  # a compiler that aborts takes its process along
    print(f"compiled, {lost} of {len(jobs)} tasks were lost", flush=True)
    results: dict[str, Any] = facts() | {"copy_gb_per_s": round(copy_rate())}
    print(f"plain copy {results['copy_gb_per_s']} GB/s", flush=True)
    for (kind, rows), tilings in TILINGS.items():
        cases = {name: case(kind, rows, name) for name in names_of(kind)}
        sums = {key: total(cases, key) for key in ["x".join(map(str, t)) for t in tilings] + ["cublas"]}
        ordered = {key: round(ms, 4) for key, ms in sorted(sums.items(), key=lambda pair: pair[1]) if ms < 1e9}
        best = next((key for key in ordered if key != "cublas"), None)
        results[f"{kind} {rows}"] = {"step_ms": ordered, "best": best, "cases": cases}
        (folder / "decode_kernels.json").write_text(json.dumps(results, indent=1))
        print(kind, rows, json.dumps(ordered), flush=True)
        for name, found in cases.items():
            print(
                "   ",
                name,
                json.dumps({k: v for k, v in found.items() if k in (best, "cublas") or "problem" in str(v)}),
            )


if __name__ == "__main__":
    main()
