"""Ways to cut the NF4 kernel's work, on one GPU: which tiling whet/engine/kernels/nf4_triton.py should take.

    python benchmarks/nf4_variants.py

Llama-3-8B's MLP weights into a buffer with 64 spare columns, with and without double quantisation. Every variant is
first compared bit by bit with the plain form, then timed as in engine_kernels.py: medians of 20 groups of 10 calls,
the variants one after the other, the whole list twice. Beside the tilings of the shipped kernel: ``blocks``, the kernel
for any width (a thread's values change threads on their way out); ``pairs``, a table of 256 pairs, one read for two
values; ``gather``, the table of 16 in registers. Writes results/nf4_variants.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from engine_kernels import HIDDEN, MLP, SPARE, copy_rate, measure, random
from record import record, spread

from whet.engine.kernels.nf4 import Nf4Weight, _pairs, dequantise_nf4_plain, table
from whet.engine.kernels.nf4_triton import TILING, Tiling, dequantise, dequantise_any
from whet.engine.quantised import quantise_nf4

# A program has 32 threads a warp: one word a thread, two, four; one piece after the other.
TILINGS = [
    Tiling(words=32 * warps * each, pieces=pieces, warps=warps)
    for warps in (2, 4, 8)
    for each, pieces in ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1))
]
ROUNDS = 2
Run = Callable[[Nf4Weight, torch.Tensor], None]


@triton.jit
def _in_order(v0, v1, v2, v3, v4, v5, v6, v7):
    """Eight tensors, value after value."""
    even = tl.interleave(tl.interleave(v0, v4), tl.interleave(v2, v6))
    return tl.interleave(even, tl.interleave(tl.interleave(v1, v5), tl.interleave(v3, v7)))


@triton.jit
def _first(pair):
    return pair.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _second(pair):
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _other_table(
    PACKED, TABLE, ABSMAX, OUT, K, ld_out, stretches, WORDS: tl.constexpr, GATHER: tl.constexpr
):  # fmt: skip
    """As the shipped kernel for K a multiple of 64 and no double quantisation, with another way to the table."""
    stretch, row = tl.program_id(0) % stretches, (tl.program_id(0) // stretches).to(tl.int64)
    word = stretch * WORDS + tl.max_contiguous(tl.arange(0, WORDS), 1)
    ok = word < K // 8
    w = tl.load(PACKED.to(tl.pointer_type(tl.int32), bitcast=True) + row * K // 8 + word, mask=ok, other=0)
    a = tl.load(ABSMAX + row * K // 64 + word // 8, mask=ok, other=0.0)
    if GATHER:
        q = _in_order(
            (w >> 4) & 15, w & 15, (w >> 12) & 15, (w >> 8) & 15,
            (w >> 20) & 15, (w >> 16) & 15, (w >> 28) & 15, (w >> 24) & 15,
        )  # fmt: skip
        values = tl.gather(tl.load(TABLE + tl.arange(0, 16)), q, 0) * _in_order(a, a, a, a, a, a, a, a)
    else:
        PAIRS = TABLE.to(tl.pointer_type(tl.int64), bitcast=True)
        p, q = tl.load(PAIRS + (w & 255)), tl.load(PAIRS + ((w >> 8) & 255))
        r, s = tl.load(PAIRS + ((w >> 16) & 255)), tl.load(PAIRS + ((w >> 24) & 255))
        values = _in_order(
            _first(p) * a, _second(p) * a, _first(q) * a, _second(q) * a,
            _first(r) * a, _second(r) * a, _first(s) * a, _second(s) * a,
        )  # fmt: skip
    column = stretch * WORDS * 8 + tl.arange(0, 8 * WORDS)
    tl.store(OUT + row * ld_out + column, values.to(OUT.dtype.element_ty), mask=column < K)


def other_table(weight: Nf4Weight, out_NK: torch.Tensor, *, gather: bool, words: int, warps: int) -> None:
    N, K = weight.shape
    stretches = triton.cdiv(K, 8 * words)
    values = (table if gather else _pairs)(out_NK.device)
    _other_table[(N * stretches,)](
        weight.packed, values, weight.absmax, out_NK, K, out_NK.stride(0), stretches,
        WORDS=words, GATHER=gather, num_warps=warps, enable_fp_fusion=False,
    )  # fmt: skip


def variants(weight: Nf4Weight) -> Iterator[tuple[str, Run]]:
    """Those that take this weight."""
    where = table(weight.packed.device)
    for tiling in TILINGS:
        name = f"{tiling.warps} warps, {tiling.words} words, {tiling.pieces} pieces"
        yield name, partial(_shipped, where=where, tiling=tiling)
    yield "blocks", lambda w, out: dequantise_any(w, where, out)
    if weight.nested is None:
        for words, warps in ((128, 4), (256, 4), (512, 4), (512, 8)):
            for gather in (False, True):
                name = f"{'gather' if gather else 'pairs'}, {warps} warps, {words} words"
                yield name, partial(other_table, gather=gather, words=words, warps=warps)


def _shipped(weight: Nf4Weight, out_NK: torch.Tensor, *, where: torch.Tensor, tiling: Tiling) -> None:
    dequantise(weight, where, out_NK, tiling)


def problem(run: Run, weight: Nf4Weight, out_NK: torch.Tensor, expected_NK: torch.Tensor) -> str:
    """Why a variant is not timed; "" where every value is right."""
    out_NK.fill_(float("nan"))
    try:
        run(weight, out_NK)
    except (triton.TritonError, RuntimeError, ValueError) as error:  # this Triton does not compile it
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return "" if torch.equal(out_NK, expected_NK) else "other values"


def case(rows: int, columns: int, double: bool, copy: float) -> dict[str, Any]:
    """All variants on one weight, fastest first."""
    weight = quantise_nf4(random(rows, columns).contiguous(), double=double)
    out_NK, expected_NK = random(rows, columns, SPARE), torch.empty(rows, columns, dtype=torch.bfloat16, device="cuda")
    dequantise_nf4_plain(weight, expected_NK)
    size = sum(t.numel() * t.element_size() for t in weight.tensors()) + 2 * out_NK.numel()
    runs = dict(variants(weight))
    problems = {name: problem(run, weight, out_NK, expected_NK) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs if not problems[name]}
    for _ in range(ROUNDS):
        for name in times:
            times[name] += measure(lambda name=name: runs[name](weight, out_NK))[0]
    found: dict[str, Any] = {name: {"problem": text} for name, text in problems.items() if text}
    for name in sorted(times, key=lambda name: sorted(times[name])[len(times[name]) // 2]):
        ms = spread(times[name])
        rate = size / (ms["median"] * 1e6)
        found[name] = {"ms": {k: v for k, v in ms.items() if k != "repeats"}, "of_copy": round(rate / copy, 3)}
        print(
            f"{rows} x {columns}{' double' if double else '':7} {name:32} {rate:6.0f} GB/s {rate / copy:6.1%}",
            flush=True,
        )
    for name, text in problems.items():
        if text:
            print(f"{name}: {text}")
    return found


def main() -> None:
    copy = copy_rate()
    print(f"plain copy {copy:.0f} GB/s; shipped: {TILING}")
    cases = {
        f"{rows} x {columns}{' double' if double else ''}": case(rows, columns, double, copy)
        for rows, columns in ((MLP, HIDDEN), (HIDDEN, MLP))
        for double in (False, True)
    }
    record("nf4_variants", copy_gb_per_s=round(copy), shipped=TILING._asdict(), cases=cases)


if __name__ == "__main__":
    main()
