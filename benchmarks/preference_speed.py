"""DPO on one GPU: whet against TRL's ``DPOTrainer``, the same random model and pairs, in turns.

    python benchmarks/preference_speed.py --out FOLDER [--limit 530] [--shape tiny]
    python benchmarks/preference_speed.py --summarise FOLDER/raw.jsonl ...

Qwen2.5-3B's shape with random weights, bfloat16; rows of 2,048 and 8,192 tokens, of which half are the prompt
(``preference_speed_run.py``), one pair a batch and four batches a step; LoRA (r = 16, all linear layers) and full
fine-tuning. Every task is a process of its own with a time limit; each finished setting is a line of
``FOLDER/raw.jsonl``, with every step time, and is kept whatever comes after. TRL runs as it is by default (gradient
checkpointing), with Liger's kernels, and without checkpointing; whet is set beside its default and the best of these.
Its ``padding_free`` is switched off by TRL itself. whet runs as its plan says, with the least memory, and as its plan
says within 0.6 of the memory of TRL's fastest.

At the end, and with ``--summarise``, ``results/preference_speed.json`` is written, and beside the raw lines. Of several
calls together TRL's fastest turn and whet's slowest are compared: with rows of 2,048 tokens TRL waits for its host, and
machines differ in those by half.
``vocab`` trains the same LoRA with smaller vocabularies too: what it takes beyond the model itself should be equal.

TRL and what it needs lie in ``.peer/site.tar.xz``, as for ``engine_h200.py``. Bars: 1.8 times the pairs a second of
TRL's, and 0.6 of its peak memory for LoRA.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from engine_h200 import environment, gpu_state, unpack

HERE = Path(__file__).resolve().parent
SHORT, LONG = "b1a4s2048n7w2", "b1a4s8192n4w1"
SETTINGS = {"qwen3b": f"{SHORT}+{LONG}", "tiny": "b1a4s64n4w1+b1a4s128n3w1"}
SHORTEST, LONGEST = 40, 120  # seconds of a task: with less time left none is started, with more it is stopped
SPEED_BAR, MEMORY_BAR = 1.8, 0.6
STREAMED = "4.4GiB"  # less than 0.6 of what TRL takes by default at 2,048 tokens
WITHIN = "10.6GiB"  # less than 0.6 of what TRL takes at 2,048 tokens where it is fastest
SHOWN = ("task", "variant", "pairs_s", "peak_alloc_gib", "peak_reserved_gib")


class Task(NamedTuple):
    """A trainer's turn. ``more``: arguments of preference_speed_run.py. ``settings``: None: the shape's."""

    name: str
    who: str
    kind: str
    variants: str
    more: tuple[str, ...] = ()
    settings: str | None = None


TASKS = (  # the most important first
    Task("whet-lora", "whet", "lora", "fastest+smallest"),
    Task("trl-lora", "trl", "lora", "plain+liger"),
    Task("whet-full", "whet", "full", "fastest"),
    Task("trl-full", "trl", "full", "plain+liger"),
    Task("whet-lora-streamed", "whet", "lora", "streamed", ("--max-memory", STREAMED)),
    Task("vocab", "whet", "lora", "full", ("--vocab", "37984+75968+151936"), "b1a1s2048n2w1+b1a1s8192n2w1"),
    Task("trl-lora-keep", "trl", "lora", "keep"),
    Task("whet-lora-within", "whet", "lora", "fastest", ("--max-memory", WITHIN), SHORT),
    Task("trl-full-keep", "trl", "full", "keep"),
    Task("whet-lora-again", "whet", "lora", "fastest"),
    Task("trl-lora-again", "trl", "lora", "liger"),
)
TINY = tuple(task._replace(settings=None, variants=task.variants.replace("+liger", "")) for task in TASKS)


def run(options: argparse.Namespace) -> None:
    """All tasks, as far as the time goes."""
    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    options.scratch.mkdir(parents=True, exist_ok=True)
    unpack(options.scratch)
    print(f"prepared in {time.perf_counter() - began:.0f} s; {gpu_state()}", flush=True)
    chosen = options.tasks.split(",") if options.tasks else None
    for task in TINY if options.shape == "tiny" else TASKS:
        if chosen is not None and task.name not in chosen:
            continue
        left = int(options.limit - (time.perf_counter() - began))
        if left < SHORTEST:
            print(f"{task.name}: not started, {left} s left", flush=True)
            continue
        run_task(task, options, min(left, LONGEST))
    print(f"took {time.perf_counter() - began:.0f} s", flush=True)


def run_task(task: Task, options: argparse.Namespace, seconds: int) -> None:
    """One process; its lines go to raw.jsonl, what it printed to log.txt."""
    began, before = time.perf_counter(), gpu_state()
    result = options.scratch / "result.jsonl"
    result.unlink(missing_ok=True)
    settings = task.settings or SETTINGS[options.shape]
    command = [sys.executable, str(HERE / "preference_speed_run.py"), "--who", task.who, "--kind", task.kind]
    command += ["--settings", settings, "--shape", options.shape, "--variants", task.variants, *task.more]
    command += ["--out", str(result), "--budget", str(seconds - 12)]
    with (options.out / "log.txt").open("a") as log:
        log.write(f"##### {task.name}\n")
        log.flush()
        try:
            code = subprocess.run(
                command, cwd=options.scratch, env=environment((), options.scratch), stdout=log, stderr=log,
                timeout=seconds,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = 124
    facts = {"task": task.name, "who": task.who, "kind": task.kind, "arguments": list(task.more), "exit": code}
    facts |= {"shape": options.shape, "gpu_before": before, "gpu_after": gpu_state()}
    lines = [json.loads(line) for line in result.read_text().splitlines()] if result.exists() else []
    with (options.out / "raw.jsonl").open("a") as raw:
        raw.writelines(json.dumps(facts | line) + "\n" for line in lines)
    for line in lines:
        names = ("variant", "setting", "pairs_s", "peak_alloc_gib", "peak_reserved_gib", "error")
        shown = {name: line[name] for name in names if name in line}
        print(f"  {shown} loss {(line.get('losses') or [None])[0]}", flush=True)
    print(f"{task.name}: exit {code}, {time.perf_counter() - began:.0f} s", flush=True)
    if code:
        print((options.out / "log.txt").read_text(errors="replace")[-1500:], flush=True)


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """For each kind and length: whet's plans beside TRL as it is by default, and its best by speed and by memory."""
    done = [line for line in lines if line.get("pairs_s")]
    found: dict[str, Any] = {}
    for kind in ("lora", "full"):
        for tokens in sorted({line["row_tokens"] for line in done}):
            alike = [line for line in done if (line["kind"], line["row_tokens"]) == (kind, tokens)]
            ours = [line for line in alike if line["task"].startswith("whet")]
            theirs = [line for line in alike if line["who"] == "trl"]
            if not ours or not theirs:
                continue
            fastest = max(theirs, key=speed)
            leanest = min(theirs, key=lambda line: line["peak_alloc_gib"])
            default = max((line for line in theirs if line["variant"] == "plain"), key=speed)
            slowest = sorted(
                ours, key=speed, reverse=True
            )  # of several calls the last one of a name stays: the slowest
            found[f"{kind}, {tokens} tokens"] = {
                "trl_default": {name: default[name] for name in SHOWN},
                "trl_fastest": {name: fastest[name] for name in SHOWN},
                "trl_least_memory": {name: leanest[name] for name in SHOWN},
                **{f"{line['task']}, {line['variant']}": beside(line, default, fastest, leanest) for line in slowest},
            }
    return found


def speed(line: dict[str, Any]) -> float:
    return float(line["pairs_s"])


def beside(
    line: dict[str, Any], default: dict[str, Any], fastest: dict[str, Any], leanest: dict[str, Any]
) -> dict[str, Any]:
    """whet's figures, and as shares of TRL's."""
    names = ("pairs_s", "peak_alloc_gib", "peak_reserved_gib", "reference_s_a_pair")
    shares = {}
    for name, other in (("default", default), ("fastest", fastest), ("least_memory", leanest)):
        shares[f"times_pairs_s_of_{name}"] = round(line["pairs_s"] / other["pairs_s"], 3)
        if other["peak_alloc_gib"]:
            shares[f"of_peak_of_{name}"] = round(line["peak_alloc_gib"] / other["peak_alloc_gib"], 3)
    return {name: line[name] for name in names} | shares


def vocabularies(lines: list[dict[str, Any]]) -> dict[str, float]:
    """GiB that training takes beyond what is there before it, by tokens of a row and size of the vocabulary."""
    return {
        f"{line['row_tokens']} tokens, {line['vocab']} ids": round(line["peak_alloc_gib"] - line["before_gib"], 3)
        for line in lines
        if line["task"] == "vocab" and "before_gib" in line
    }


def write_summary(raw: list[Path]) -> None:
    """``results/preference_speed.json`` from raw lines, and a copy beside them; of a tiny model it is only shown."""
    from record import record

    lines = [json.loads(text) for path in raw for text in path.read_text().splitlines()]
    found = {"summary": summary(lines), "beyond_the_model_gib": vocabularies(lines)}
    print(json.dumps(found, indent=1))
    if found["summary"] and {line["shape"] for line in lines} == {"qwen3b"}:
        what = (__doc__ or "").splitlines()[0]
        bars = {"times_pairs_s": SPEED_BAR, "lora_of_its_peak": MEMORY_BAR}
        path = record("preference_speed", what=what, bars=bars, **found, runs=lines)
        if path.parent != raw[0].parent.resolve():
            shutil.copy(path, raw[0].parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), default=Path("preference_raw").resolve())
    parser.add_argument("--shape", choices=tuple(SETTINGS), default="qwen3b")
    parser.add_argument("--tasks", help="of TASKS, with commas; all")
    parser.add_argument("--limit", type=int, default=530, help="seconds for all tasks together")
    parser.add_argument("--scratch", type=Path, default=Path.home() / ".cache" / "whet_preference")
    parser.add_argument("--summarise", nargs="+", type=Path, metavar="RAW")
    options = parser.parse_args()
    if not options.summarise:
        run(options)
    raw = options.summarise or [options.out / "raw.jsonl"]
    if all(path.exists() for path in raw):
        write_summary(raw)


if __name__ == "__main__":
    main()
