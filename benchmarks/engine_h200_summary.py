"""The result file of ``engine_h200.py``, from the raw lines of its rounds."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from engine_h200_model import SHAPES
from engine_h200_rows import DOCUMENT_LENGTHS, parse_settings
from record import RESULTS

from whet.console import write_json_atomic

RANK = 16
START = (  # of a line of engine_h200_start.py
    "import_to_first_step_s", "whet_s", "imports_of_other_libraries_s", "parts", "within_s",
    "triton_cache_files_before", "kernels_compiled_late", "profiled", "engine",
)  # fmt: skip
MODELS = {
    "llama8b": "random Llama-3-8B, untied",
    "llama1b": "random Llama-3.2-1B, tied",
}
TRAINED = "LoRA r = 16 on all linear layers; float32 AdamW (whet), 8-bit AdamW (peers)"
LIMIT_FORMULA = (
    "limit in tokens/s = the card's sustained bf16 FLOP/s / F(S). Sustained: products of 16384 x 4096 by 4096 x 14336 "
    "for 3 s, measured at the start of the same round (sustained_tflops). F(S) for one token = 2 x 2 x the layers' "
    "weights (forward, gradient of the input; frozen weights have no gradient of their own) + 3.5 x 4 x S/2 x heads x "
    "head size x layers (causal attention: forward, and 2.5 times that backward) + 2 x 2 x hidden x vocabulary (head: "
    "logits, gradient of the hidden states) + 3 x 2 x LoRA's weights. Nothing that is computed again counts: 32.1e9 "
    "for the 8B shape at S = 2048. Documents: S is the mean of length^2 over the mean of length. "
    "fraction_of_limit = tokens/s x F(S) / sustained; fraction_of_655 the same with 655e12, an H200's figure of "
    "another day."
)
EXPLAINED = {
    "whet policies": "none, mlp, full: what all layers keep; resident: none, with 16-bit copies of all NF4 weights; "
    "24gib, fit: the plan's fastest for 24 GiB of reserved memory, and for the card's free memory",
    "whet-bf16-streamed": "16-bit weights of the layers stay in main memory and come to the GPU layer by layer",
    "unsloth": "Unsloth with its default switches: padding-free rows; no xFormers and no FlashAttention package fits "
    "torch 2.11 for CUDA 13, so its attention is torch's",
    "unsloth-best": "with UNSLOTH_SDPA_CUDNN_BUCKET=0",
    "unsloth-padded": "with UNSLOTH_SDPA_CUDNN_BUCKET=0 and UNSLOTH_PADDING_CHOICE=padded (its blocks compiled)",
    "hf": "TRL + PEFT, gradient checkpointing, sdpa",
    "packed": "documents of an instruction data set's lengths; real tokens only are counted. whet: its own packing, 8 "
    "rows of at most 2,048 tokens a step. unsloth: packing=True, the same number of rows, one attention call for each "
    "run of documents of one length (what it does on torch 2.11). unsloth-varlen: the same with FlashAttention-2 with "
    "cu_seqlens in Unsloth's own function, which it uses from torch 2.12 on. unsloth-grouped, hf-grouped: no packing, "
    "padded batches of 44 documents, two a step, documents of like length together (TRL's packing needs FlashAttention "
    "to keep documents apart cheaply)",
}
FIELDS = ("layers", "copies", "planned", "budget_gib", "packing", "padding_free", "sampling", "rows_a_batch",
          "batches_a_step", "varlen_kernel", "attention", "trainer_class", "optim", "switches")  # fmt: skip
Row = dict[str, Any]


def flops_a_token(model: str, length: float) -> float:
    """Useful operations for each token, no recomputation: F(S) of the formula."""
    shape = SHAPES[model]
    keys, heads = shape.key_heads * shape.head, shape.heads * shape.head
    weights = shape.layers * (shape.hidden * (heads + 2 * keys) + heads * shape.hidden + 3 * shape.hidden * shape.mlp)
    attention = 4 * length / 2 * heads * shape.layers
    sides = 2 * (shape.hidden + heads) + 2 * (shape.hidden + keys) + 3 * (shape.hidden + shape.mlp)
    return 2 * 2 * weights + 3.5 * attention + 2 * 2 * shape.hidden * shape.vocab + 3 * 2 * shape.layers * RANK * sides


def write_summary(raw: Sequence[Path], result: Path | None = None) -> Path:
    """Read the raw lines of all rounds and write the result file."""
    lines = [json.loads(text) for path in raw for text in path.read_text().splitlines() if text.strip()]
    cards = [line for line in lines if line["variant"] == "card"]
    starts = [line for line in lines if line.get("policy") == "start"]
    turns = [line for line in lines if line not in cards and line not in starts]
    rows = rows_of((line for line in turns if measured(line)), cards)
    path = result or RESULTS / "engine_h200.json"
    found = {
        "date": date.today().isoformat(),
        "models": MODELS,
        "trained": TRAINED,
        "gpu": sorted({card_name(line) for line in lines}),
        "versions": gathered(lines, "versions"),
        "device": gathered(lines, "device"),
        "summary": summary_of(rows, cards, starts),
        "explained": EXPLAINED,
        "formula": LIMIT_FORMULA,
        "rows": rows,
        "failed": [line for line in turns if not measured(line)],
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


def card_name(line: Row) -> str:
    """Name and driver."""
    return ", ".join(line.get("gpu_after", "").split(", ")[:2])


def rows_of(lines: Iterable[Row], cards: Sequence[Row]) -> list[Row]:
    """One row for each card, model, variant, policy and batch shape, over all turns."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for line in lines:
        groups[card_name(line), line["model"], line["variant"], line["policy"], shape_of(line)].append(line)
    return [row_of(key, found, cards) for key, found in groups.items()]


def row_of(key: tuple[str, ...], lines: Sequence[Row], cards: Sequence[Row]) -> Row:
    """Median over the measured steps of all turns; peaks are the highest of any turn."""
    card, model, variant, policy, shape = key
    steps = [second for line in lines for second in measured(line)]
    rates = {f"{line['round']} {line['turn']}": round(rate_of([line]), 1) for line in lines}
    rate, first = rate_of(lines), lines[0]
    length = mean_length() if first["documents"] else first["seq"]
    operations = rate * flops_a_token(model, length)
    return {
        "gpu": card,
        "model": model,
        "variant": variant,
        "policy": policy,
        "shape": shape,
        **{name: first[name] for name in FIELDS if name in first},
        "steps": len(steps),
        "step_s": {"median": statistics.median(steps), "min": min(steps), "max": max(steps)},
        "tokens_per_second": round(rate, 1),
        "tokens_per_second_by_turn": rates,
        "peak_gib": max(line["peak_alloc_gib"] for line in lines),
        "reserved_gib": max(line["peak_reserved_gib"] for line in lines),
        "fraction_of_limit": fraction(operations, sustained(cards, lines)),
        "fraction_of_655": round(operations / 655e12, 3) if "H200" in card else None,
    }


def rate_of(lines: Sequence[Row]) -> float:
    """Tokens a second: all steps alike: by the median; documents: all real tokens over all seconds."""
    steps = [second for line in lines for second in measured(line)]
    if not lines[0]["documents"]:
        return lines[0]["batch"] * lines[0]["accum"] * lines[0]["seq"] / statistics.median(steps)
    return sum(tokens for line in lines for tokens in line["tokens"][warmup(line) :]) / sum(steps)


def warmup(line: Row) -> int:
    return parse_settings(line["setting"])[0].warmup


def measured(line: Row) -> list[float]:
    """Step times without the warm-up; empty where the setting failed or ran out of time."""
    seconds: list[float] = line.get("step_s", [])
    return seconds[warmup(line) :]


def mean_length() -> float:
    """Tokens that a mean token's document has."""
    return sum(length**2 for length in DOCUMENT_LENGTHS) / sum(DOCUMENT_LENGTHS)


def sustained(cards: Sequence[Row], lines: Sequence[Row]) -> float | None:
    """TFLOP/s measured in the rounds of these lines, on their card."""
    rounds, card = {line["round"] for line in lines}, card_name(lines[0])
    found = [line["sustained_tflops"] for line in cards if line["round"] in rounds and card_name(line) == card]
    return statistics.mean(found) if found else None


def fraction(operations: float, tflops: float | None) -> float | None:
    return round(operations / (tflops * 1e12), 3) if tflops else None


def shape_of(line: Row) -> str:
    """8x2048, 2x4x2048 with accumulation, 8x2048 packed."""
    parts = [line["batch"], *([line["accum"]] if line["accum"] > 1 else []), line["seq"]]
    return "x".join(map(str, parts)) + (" packed" if line["documents"] else "")


def summary_of(rows: Sequence[Row], cards: Sequence[Row], starts: Sequence[Row]) -> dict[str, Any]:
    """The figures of the card that ran the main comparison; other cards' below it."""
    names = sorted({row["gpu"] for row in rows})
    parts = {name: summary_of_card(name, rows, cards, starts) for name in names}
    first = next((name for name in names if "unsloth_best_is" in parts[name]), names[0])
    others = {name: part for name, part in parts.items() if name != first}
    return parts[first] | ({"other_cards": others} if others else {})


def summary_of_card(card: str, rows: Sequence[Row], cards: Sequence[Row], starts: Sequence[Row]) -> dict[str, Any]:
    """At the top those of the 8B shape, NF4, 8x2048."""
    own = [row for row in rows if row["gpu"] == card]
    found: dict[str, Any] = {"gpu": card, **compared(own, "llama8b", "nf4", "8x2048")}
    for shape in sorted({row["shape"] for row in own}, key=lambda shape: shape != "8x2048"):
        for model in MODELS:
            for storage in ("nf4", "bf16"):
                part = compared(own, model, storage, shape)
                if part and (model, storage, shape) != ("llama8b", "nf4", "8x2048"):
                    found.setdefault("others", {})[f"{model} {storage} {shape}"] = part
    found["sustained_tflops"] = {line["round"]: line["sustained_tflops"] for line in cards if card_name(line) == card}
    found["import_to_first_step_s"] = [
        {name: line[name] for name in START if name in line} for line in starts if card_name(line) == card
    ]
    return found


def compared(rows: Sequence[Row], model: str, storage: str, shape: str) -> dict[str, Any]:
    """whet's plans beside the fastest of Unsloth's, in one shape; empty where one of them is missing."""
    rows = [row for row in rows if row["model"] == model and row["shape"] == shape and storage_of(row) == storage]
    whet = [row for row in rows if row["variant"].startswith("whet")]
    unsloth = max((row for row in rows if row["variant"].startswith("unsloth")), key=speed, default=None)
    if not whet or unsloth is None:
        return {}
    name = shape.replace(" ", "_")
    fastest, smallest = max(whet, key=speed), min(whet, key=lambda row: row["peak_gib"])
    found = {f"fastest_vs_unsloth_best_{name}": ratio(fastest, unsloth), **memory("fastest", fastest)}
    found |= {f"smallest_vs_unsloth_best_{name}": ratio(smallest, unsloth), **memory("smallest", smallest)}
    limited = next((row for row in whet if row["policy"] == "24gib"), None)
    if limited is not None:
        found |= {f"at_24gib_vs_unsloth_best_{name}": ratio(limited, unsloth), **memory("at_24gib", limited)}
    found |= memory("unsloth", unsloth) | {"fraction_of_limit": fastest["fraction_of_limit"]}
    found |= {"fraction_of_655": fastest["fraction_of_655"], "unsloth_best_is": unsloth["variant"]}
    found["fastest_vs_unsloth_best_neighbours"] = neighbours(fastest, unsloth)
    others = [row for row in rows if not row["variant"].startswith("whet")]
    found["fastest_vs"] = {row["variant"]: ratio(fastest, row) for row in others}
    found["tokens_per_second"] = {f"{row['variant']} {row['policy']}": row["tokens_per_second"] for row in rows}
    found["peaks_gib"] = {f"{row['variant']} {row['policy']}": row["peak_gib"] for row in rows}
    return found


def storage_of(row: Row) -> str:
    return "bf16" if "bf16" in row["variant"] else "nf4"


def speed(row: Row) -> float:
    rate: float = row["tokens_per_second"]
    return rate


def ratio(row: Row, other: Row) -> float:
    return round(speed(row) / speed(other), 3)


def neighbours(row: Row, other: Row) -> dict[str, float]:
    """For each turn of ``other`` the ratio of the nearest turn of ``row`` in the same round."""
    ours, theirs = row["tokens_per_second_by_turn"], other["tokens_per_second_by_turn"]
    found = {}
    for turn, rate in theirs.items():
        name, number = turn.rsplit(" ", 1)
        same = {int(one.rsplit(" ", 1)[1]): one for one in ours if one.rsplit(" ", 1)[0] == name}
        if same:
            nearest = same[min(same, key=lambda one: abs(one - int(number)))]
            found[f"{nearest} / {turn}"] = round(ours[nearest] / rate, 3)
    return found


def memory(name: str, row: Row) -> dict[str, Any]:
    """Allocated and reserved at the highest point."""
    return {f"{name}_policy": row["policy"], f"{name}_peak_gib": row["peak_gib"]} | {
        f"{name}_reserved_gib": row["reserved_gib"]
    }
