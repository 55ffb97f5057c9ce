"""The result file of ``engine_h200.py``, from the raw lines of its rounds."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from record import RESULTS

from whet.console import write_json_atomic

# Llama-3-8B, r = 16 on all linear layers
LAYERS, HIDDEN, KEYS, MLP, VOCAB, RANK = 32, 4096, 1024, 14336, 128256, 16
SUSTAINED = 655e12  # bf16 FLOP/s of an H200 at its power limit, over seconds
LIMIT_FORMULA = (
    "limit in tokens/s = 655e12 FLOP/s (bf16 products sustained on an H200 at its power limit) / F(S); "
    "F(S) = 2 x 13.96e9 (the layers' products: forward, gradient of the input; frozen weights have no gradient of "
    "their own) + 3.5 x 4 x S/2 x 4096 x 32 (causal attention: forward, and 2.5 times that backward) + 2 x 1.05e9 "
    "(head: logits, gradient of the hidden states) + 3 x 2 x 41.9e6 (LoRA). Nothing that is computed again counts: "
    "F(2048) = 32.1e9. fraction_of_limit = tokens/s x F(S) / 655e12"
)
Row = dict[str, Any]


def flops_a_token(length: int) -> float:
    """Useful operations for each token, no recomputation: F(S) of the formula."""
    weights = LAYERS * (HIDDEN * (HIDDEN + 2 * KEYS) + HIDDEN * HIDDEN + 3 * HIDDEN * MLP)
    attention = 4 * length / 2 * HIDDEN * LAYERS
    adapters = LAYERS * RANK * (2 * 2 * HIDDEN + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + MLP))
    return 2 * 2 * weights + 3.5 * attention + 2 * 2 * HIDDEN * VOCAB + 3 * 2 * adapters


def write_summary(raw: Sequence[Path], result: Path | None = None) -> Path:
    """Read the raw lines of all rounds and write the result file."""
    lines = [json.loads(text) for path in raw for text in path.read_text().splitlines() if text.strip()]
    rows = rows_of(line for line in lines if measured(line))
    path = result or RESULTS / "engine_h200.json"
    found = {
        "date": date.today().isoformat(),
        "model": "random Llama-3-8B, r = 16 on all linear layers, float32 AdamW (whet), 8-bit AdamW (peers)",
        "gpu": sorted({", ".join(line["gpu_after"].split(", ")[:2]) for line in lines if line.get("gpu_after")}),
        "versions": gathered(lines, "versions"),
        "device": gathered(lines, "device"),
        "summary": summary_of(rows),
        "formula": LIMIT_FORMULA,
        "rows": rows,
        "failed": [line for line in lines if not measured(line)],
        "raw": lines,
    }
    write_json_atomic(path, found)
    print(json.dumps(found["summary"], indent=1))
    print(path)
    return path


def gathered(lines: Iterable[Row], key: str) -> dict[str, str]:
    """What every process said about versions or its device, taken out of the lines and said once."""
    found: dict[str, str] = {}
    for line in lines:
        found.update(line.pop(key, None) or {})
    return found


def rows_of(lines: Iterable[Row]) -> list[Row]:
    """One row for each variant, policy and batch shape, over all rounds."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for line in lines:
        groups[line["variant"], line["policy"], shape_of(line)].append(line)
    return [row_of(*key, found) for key, found in groups.items()]


def row_of(variant: str, policy: str, shape: str, lines: Sequence[Row]) -> Row:
    """Median over the measured steps of all rounds; peaks are the highest of any round."""
    first = lines[0]
    tokens = first["batch"] * first["accum"] * first["seq"]
    rounds = [measured(line) for line in lines]
    steps = [second for one in rounds for second in one]
    rate = tokens / statistics.median(steps)
    return {
        "variant": variant,
        "policy": policy,
        "shape": shape,
        "layers": first.get("layers"),
        "steps": len(steps),
        "step_s": {"median": statistics.median(steps), "min": min(steps), "max": max(steps)},
        "tokens_per_second": round(rate, 1),
        "tokens_per_second_by_round": {
            str(line["round"]): round(tokens / statistics.median(one), 1)
            for line, one in zip(lines, rounds, strict=True)
        },
        "peak_gib": max(line["peak_alloc_gib"] for line in lines),
        "reserved_gib": max(line["peak_reserved_gib"] for line in lines),
        "fraction_of_limit": round(rate * flops_a_token(first["seq"]) / SUSTAINED, 3),
    }


def measured(line: Row) -> list[float]:
    """Step times without the warm-up; empty where the setting failed or ran out of time."""
    match = re.search(r"w(\d+)", line["setting"])
    assert match is not None, line["setting"]
    seconds: list[float] = line.get("step_s", [])
    return seconds[int(match.group(1)) :]


def shape_of(line: Row) -> str:
    """8x2048, or 2x4x2048 with accumulation."""
    parts = [line["batch"], *([line["accum"]] if line["accum"] > 1 else []), line["seq"]]
    return "x".join(map(str, parts))


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of issue 4, for 8x2048; the same for other shapes under their names."""
    shapes = sorted({row["shape"] for row in rows}, key=lambda shape: shape != "8x2048")
    found: dict[str, Any] = {}
    for shape in shapes:
        part = compared([row for row in rows if row["shape"] == shape], shape)
        if shape == "8x2048":
            found |= part
        elif part:
            found.setdefault("other_shapes", {})[shape] = part
    return found


def compared(rows: Sequence[Row], shape: str) -> dict[str, Any]:
    """whet's NF4 plans beside the faster of Unsloth's two, in one shape; empty where one of them is missing."""
    four_bit = [row for row in rows if row["variant"] == "whet-nf4"]
    unsloth = max((row for row in rows if row["variant"] in ("unsloth", "unsloth-best")), key=speed, default=None)
    if not four_bit or unsloth is None:
        return {}
    fastest, smallest = max(four_bit, key=speed), min(four_bit, key=lambda row: row["peak_gib"])
    found = {f"fastest_vs_unsloth_best_{shape}": ratio(fastest, unsloth), **memory("fastest", fastest)}
    found |= {f"smallest_vs_unsloth_best_{shape}": ratio(smallest, unsloth), **memory("smallest", smallest)}
    limited = next((row for row in four_bit if row["policy"] == "24gib"), None)
    if limited is not None:
        found |= {f"at_24gib_vs_unsloth_best_{shape}": ratio(limited, unsloth), **memory("at_24gib", limited)}
    found |= memory("unsloth", unsloth) | {"fraction_of_limit": fastest["fraction_of_limit"]}
    found["unsloth_best_is"] = unsloth["variant"]
    found["fastest_vs_unsloth_best_by_round"] = by_round(fastest, unsloth)
    others = [row for row in rows if row["variant"] not in ("whet-nf4", unsloth["variant"])]
    found["others_vs_unsloth_best"] = {f"{row['variant']} {row['policy']}": ratio(row, unsloth) for row in others}
    found["tokens_per_second"] = {f"{row['variant']} {row['policy']}": row["tokens_per_second"] for row in rows}
    return found


def speed(row: Row) -> float:
    rate: float = row["tokens_per_second"]
    return rate


def ratio(row: Row, other: Row) -> float:
    return round(speed(row) / speed(other), 3)


def by_round(row: Row, other: Row) -> dict[str, float]:
    """Ratios of the turns that belong together."""
    theirs = other["tokens_per_second_by_round"]
    ours = row["tokens_per_second_by_round"]
    return {number: round(ours[number] / theirs[number], 3) for number in ours if number in theirs}


def memory(name: str, row: Row) -> dict[str, Any]:
    """Allocated and reserved at the highest point."""
    return {f"{name}_policy": row["policy"], f"{name}_peak_gib": row["peak_gib"]} | {
        f"{name}_reserved_gib": row["reserved_gib"]
    }
