"""Attention kernels on one GPU, forward and backward, over document lengths: what the engine's choice is made from.

    python benchmarks/engine_attention.py [--quick] [--head 128]

Causal, bfloat16, packed documents; medians of CUDA events after warm-up. ``batch`` is one cuDNN call over equal
documents, ``single`` one cuDNN call for each, ``fa2`` one FlashAttention-2 call with cu_seqlens, ``chosen`` what
``attention`` does. Lengths of the form 2^n - 17 show what padding to a bucket costs. Prints a table and the rates that
whet/engine/attention_choice.py cites; writes results/engine_attention.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from record import record

from whet.engine import attention_cuda
from whet.engine.attention import Documents, attention, attention_backward
from whet.engine.attention_choice import RATE_LENGTHS, Shape, bucket, choose, estimated_ms
from whet.engine.documents import Part, Scores

TOKENS = (16384, 32768)
HEADS = ((32, 8), (16, 2))
LENGTHS = (64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 8192, 16384, 32768)
MIXED = {  # document lengths of a micro-batch, repeated up to its tokens
    "alpaca-like": (60, 210, 95, 400, 130, 75, 310, 180, 88, 640),
    "chats": (900, 2100, 450, 3300, 1200, 760, 1800),
    "one long": (7000, 100, 60, 300, 220, 80, 150),
    "articles": (5200, 3900, 7400, 2700),
}
SINGLE_CALLS = 128  # more cuDNN calls than this for one batch are not timed

Run = tuple[Callable[[], Any], Callable[[Any], Any]]  # forward() -> kept, backward(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16,384 tokens only, fewer lengths")
    parser.add_argument("--head", type=int, default=128, help="head size")
    args = parser.parse_args()
    tokens = TOKENS[:1] if args.quick else TOKENS
    lengths = LENGTHS[2::2] if args.quick else LENGTHS
    rows: list[dict[str, Any]] = []
    for heads, groups in HEADS:
        for total in tokens:
            for length in (n for n in lengths if n <= total):
                rows += measured((length,) * (total // length), heads, groups, args.head, str(length))
                if length >= 1024:
                    odd = length - 17
                    rows += measured((odd,) * (total // odd), heads, groups, args.head, f"{odd}")
            for name, cycle in MIXED.items():
                rows += measured(filled(cycle, total), heads, groups, args.head, name)
    rates = rates_of(rows)
    print("\nrates for attention_choice.py (TFLOP/s, forward + backward):", rates)
    record("engine_attention" + ("" if args.head == 128 else f"_{args.head}"), rows=rows, rates=rates)


def filled(cycle: tuple[int, ...], total: int) -> tuple[int, ...]:
    """The lengths over and over; the last document is cut, so that the sum is ``total``."""
    out: list[int] = []
    left = total
    while left > 0:
        out.append(min(cycle[len(out) % len(cycle)], left))
        left -= out[-1]
    return tuple(out)


def measured(lengths: tuple[int, ...], heads: int, groups: int, size: int, name: str) -> list[dict[str, Any]]:
    """One row for each kernel that takes these documents; prints as it goes."""
    total = sum(lengths)
    buffer = torch.randn(total, (heads + 2 * groups) * size + 64, device="cuda", dtype=torch.bfloat16)
    q, k, v = buffer[:, :-64].unflatten(1, (-1, size)).split([heads, groups, groups], 1)
    do = torch.randn(total, heads, size, device="cuda", dtype=torch.bfloat16)
    operations = 7 * sum(length * length for length in lengths) * heads * size
    shape = Shape("cuda", True, False, heads, size)
    found = []
    for kernel, (forward, backward) in runs(q, k, v, do, lengths, size).items():
        first, times = timed(forward, backward)
        both = times["forward"] + times["backward"]
        row: dict[str, Any] = {
            "documents": name,
            "count": len(lengths),
            "tokens": total,
            "heads": heads,
            "groups": groups,
        }
        row |= {"kernel": kernel, "first_ms": round(first, 1), **{key: round(ms, 3) for key, ms in times.items()}}
        row |= {"tflops": round(operations / both / 1e9, 1)}
        if kernel == "chosen":
            parts = choose(shape, lengths, Scores(size**-0.5))
            row["parts"] = "+".join(f"{part.kind}:{part.last - part.first}" for part in parts[:8])
        else:
            kind = "fa2" if kernel == "fa2" else "cudnn"
            row["estimated"] = round(sum(estimated_ms(kind, shape, length) for length in lengths), 3)
        print(
            "  ".join(f"{value:>12}" if isinstance(value, str) else f"{value:>9}" for value in row.values()), flush=True
        )
        found.append(row)
    return found


def runs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, do: torch.Tensor, lengths: tuple[int, ...], size: int
) -> dict[str, Run]:
    """The kernels by name."""
    scores, documents = Scores(size**-0.5), Documents.of(lengths, "cuda")
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    whole = Part("cudnn", 0, len(lengths), 0, starts[-1])
    singles = [Part("cudnn", i, i + 1, starts[i], starts[i + 1]) for i in range(len(lengths))]

    def fa2_backward(kept: Any) -> Any:
        o, saved = kept
        cu, longest = documents.cu, documents.longest
        return attention_cuda.varlen_backward(do, q, k, v, o, saved, cu, longest, scores)

    out: dict[str, Run] = {
        "fa2": (lambda: attention_cuda.varlen(q, k, v, documents.cu, documents.longest, scores), fa2_backward),
        "chosen": (
            lambda: attention(q, k, v, documents, scale=scores.scale),
            lambda kept: attention_backward(do, q, k, v, *kept, documents, scale=scores.scale),
        ),
    }
    if size <= 256 and len(set(lengths)) == 1 and len(lengths) > 1:
        out["batch"] = (
            lambda: attention_cuda.dense(q, k, v, whole, scores),
            lambda kept: attention_cuda.dense_backward(do, q, k, v, *kept, whole, scores),
        )
    if size <= 256 and len(lengths) <= SINGLE_CALLS:
        out["single"] = (
            lambda: single_forward(q, k, v, singles, scores),
            lambda kept: single_backward(do, q, k, v, kept, singles, scores),
        )
    return out


def single_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, parts: list[Part], scores: Scores
) -> tuple[torch.Tensor, list[Any]]:
    """As the engine does it: each result is copied to its place."""
    o, saved = torch.empty(q.shape, dtype=q.dtype, device=q.device), []
    for part in parts:
        o[part.start : part.stop], kept = attention_cuda.dense(q, k, v, part, scores)
        saved.append(kept)
    return o, saved


def single_backward(
    do: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: Any, parts: list[Part], scores: Scores
) -> list[torch.Tensor]:
    o, saved = kept
    out = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v)]
    for part, tensors in zip(parts, saved, strict=True):
        for target, grad in zip(out, attention_cuda.dense_backward(do, q, k, v, o, tensors, part, scores), strict=True):
            target[part.start : part.stop] = grad
    return out


def timed(
    forward: Callable[[], Any], backward: Callable[[Any], Any], repeats: int = 9
) -> tuple[float, dict[str, float]]:
    """Milliseconds of the first call on the clock (plans included), and medians by events."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    backward(forward())
    torch.cuda.synchronize()
    first = (time.perf_counter() - start) * 1e3
    for _ in range(2):
        backward(forward())
    found: dict[str, list[float]] = {"forward": [], "backward": []}
    for _ in range(repeats):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        marks[0].record()
        kept = forward()
        marks[1].record()
        backward(kept)
        marks[2].record()
        marks[2].synchronize()
        found["forward"].append(marks[0].elapsed_time(marks[1]))
        found["backward"].append(marks[1].elapsed_time(marks[2]))
    return first, {key: statistics.median(values) for key, values in found.items()}


def rates_of(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The table of attention_choice.py, with the cost of a further cuDNN call."""
    wanted = {str(length) for length in RATE_LENGTHS}
    wide = [row for row in rows if row["heads"] == HEADS[0][0]]
    out: dict[str, list[float]] = {}
    for kernel in ("fa2", "batch", "single"):
        found = {
            row["documents"]: row["tflops"] for row in wide if row["kernel"] == kernel and row["documents"] in wanted
        }
        out[kernel] = [found.get(str(length), 0.0) for length in RATE_LENGTHS]  # 0: one document is no batch
    both: dict[tuple[str, int], dict[str, float]] = {}
    for row in wide:
        ms = (row["forward"] + row["backward"]) / row["count"]
        both.setdefault((row["documents"], row["tokens"]), {})[row["kernel"]] = ms
    costs = [
        ms["single"] - ms["batch"]
        for (name, _), ms in both.items()
        if {"single", "batch"} <= set(ms) and name.isdigit() and bucket(int(name)) == int(name) and int(name) >= 512
    ]
    return out | {"call_ms": [round(statistics.median(costs), 3)] if costs else []}


if __name__ == "__main__":
    main()
