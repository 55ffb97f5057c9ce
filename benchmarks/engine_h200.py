"""whet's engine against Unsloth and TRL + PEFT on one H200: the same random Llama-3-8B, the same rows, in turns.

    python benchmarks/engine_h200.py --round 1 --out FOLDER [--tasks whet-nf4,unsloth,unsloth-best,hf,whet-bf16]
        [--settings b8a1s2048n8w3,b2a4s2048n7w2] [--limit 540]
    python benchmarks/engine_h200.py --summarise FOLDER/raw.jsonl ...

Run from the root of the checkout. A task is ``variant`` or, for whet, ``variant:policy+policy``; every variant is a
process of its own, and the tasks of a round follow each other, so that two rounds give each variant two turns. A
setting reads ``b8a1s2048n8w3``: batch 8, accumulation 1, 2,048 tokens, 8 optimizer steps of which 3 are warm-up. Each
finished setting becomes one line of ``FOLDER/raw.jsonl``, with every step time. ``--summarise`` writes
``results/engine_h200.json`` and needs no GPU.

The machine needs torch 2.11 for CUDA 13, transformers 5.17, accelerate 1.15; the folder ``.peer`` beside ``whet`` (not
in the repository) holds the rest: ``site.tar.xz`` with Unsloth 2026.10.9, TRL 1.15, PEFT 0.21.2, bitsandbytes 0.50.2
and what they need; ``tok_llama``, a tokenizer with a list of words; ``gen_ckpt.py``, which writes the checkpoint;
``bench_train.py``, which trains with a peer's own trainer and stops the time between optimizer steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".peer"
SETTINGS = "b8a1s2048n8w3,b2a4s2048n7w2"  # 8 x 2,048 first: a process's second setting starts from a used allocator
POLICIES = "none+mlp+full+24gib+resident"
SHORTEST, LONGEST = 40, 180  # seconds of a task: with less time left none is started, with more it is stopped


class Variant(NamedTuple):
    """One trainer. ``backend``: whet, or a name that bench_train.py knows; ``switches``: environment of the process."""

    backend: str
    four_bit: bool
    switches: dict[str, str]


BEST_SWITCH = {"UNSLOTH_SDPA_CUDNN_BUCKET": "0"}
VARIANTS = {
    "whet-nf4": Variant("whet", True, {}),
    "whet-bf16": Variant("whet", False, {}),
    "unsloth": Variant("unsloth", True, {}),
    "unsloth-best": Variant("unsloth", True, BEST_SWITCH),
    "unsloth-bf16": Variant("unsloth", False, {}),
    "unsloth-bf16-best": Variant("unsloth", False, BEST_SWITCH),
    "hf": Variant("hf", True, {}),
    "hf-bf16": Variant("hf", False, {}),
}
TASKS = "whet-nf4,unsloth,unsloth-best,hf,whet-bf16"


class Task(NamedTuple):
    """A variant's turn."""

    variant: str
    policies: tuple[str, ...]


def parse_tasks(text: str) -> list[Task]:
    """Tasks of ``--tasks``.

    Raises:
        ValueError: an unknown variant, or policies of a peer.
    """
    tasks = []
    for part in text.split(","):
        name, _, policies = part.partition(":")
        if name not in VARIANTS:
            raise ValueError(f"variant {name!r}; known: {', '.join(VARIANTS)}")
        own = VARIANTS[name].backend == "whet"
        if policies and not own:
            raise ValueError(f"{name} has no policies")
        tasks.append(Task(name, tuple((policies or POLICIES).split("+")) if own else ()))
    return tasks


def prepare(scratch: Path, shape: str) -> Path:
    """Unpack the packages and write the checkpoint, once on a machine. Returns the checkpoint's folder."""
    site, checkpoint = scratch / "site", scratch / shape
    for place, command in (
        (site, ["tar", "xJf", str(PEER / "site.tar.xz"), "-C", str(site)]),
        (checkpoint, [sys.executable, str(PEER / "gen_ckpt.py"), str(checkpoint), shape, str(PEER / "tok_llama")]),
    ):
        done = place / ".done"
        if not done.exists():
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(command, check=True)
            if place == site:
                subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "0", str(site)], stdout=2)
            done.touch()
    return checkpoint


def environment(variant: Variant, scratch: Path) -> dict[str, str]:
    """Of a variant's process: nothing is looked up on the network."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "UNSLOTH_DISABLE_STATISTICS")
    paths = os.pathsep.join([str(scratch / "site"), str(ROOT)])
    fixed = {"PYTHONPATH": paths, "HF_HOME": str(scratch / "hf"), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **fixed, **dict.fromkeys(offline, "1"), **variant.switches}


def command(task: Task, settings: str, checkpoint: Path, result: Path, seconds: int) -> list[str]:
    """The program of a task; it writes ``result``."""
    variant = VARIANTS[task.variant]
    common = ["--model", str(checkpoint), "--settings", settings, "--out", str(result)]
    if variant.backend == "whet":
        own = ["--storage", "nf4" if variant.four_bit else "bf16", "--policies", ",".join(task.policies)]
        own += ["--started", str(time.time())]
        return [sys.executable, str(ROOT / "benchmarks" / "engine_h200_whet.py"), *common, *own]
    peer = ["--backend", variant.backend, "--load4", str(int(variant.four_bit)), "--budget", str(seconds - 12)]
    return [sys.executable, str(PEER / "bench_train.py"), *common, *peer]


def lines_of(result: Path, backend: str) -> list[dict[str, Any]]:
    """What a process has measured: one entry for each finished setting and policy."""
    if not result.exists():
        return []
    if backend == "whet":
        return [json.loads(line) for line in result.read_text().splitlines()]
    found = json.loads(result.read_text())
    common = {key: found.get(key) for key in ("import_s", "load_s", "load_alloc_gib", "versions")}
    return [{"policy": "own", **common, **setting} for setting in found["settings"]]


def gpu_state() -> str:
    """Name, clock, power and temperature; empty without a GPU."""
    query = "--query-gpu=name,driver_version,clocks.sm,power.draw,temperature.gpu"
    try:
        asked = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return asked.stdout.strip()


def run_task(task: Task, options: argparse.Namespace, checkpoint: Path, seconds: int) -> None:
    """One process; its lines go to raw.jsonl, what it printed to log.txt."""
    variant = VARIANTS[task.variant]
    work = options.scratch / "work"
    work.mkdir(parents=True, exist_ok=True)
    result = work / f"{task.variant}.json"
    result.unlink(missing_ok=True)
    program = command(task, options.settings, checkpoint, result, seconds)
    began, before = time.perf_counter(), gpu_state()
    with (options.out / "log.txt").open("a") as log:
        log.write(f"##### round {options.round} {task.variant} {' '.join(task.policies)}\n")
        log.flush()
        try:
            code = subprocess.run(
                program, cwd=work, env=environment(variant, options.scratch), stdout=log, stderr=log, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    facts = {"round": options.round, "variant": task.variant, "gpu_before": before, "gpu_after": gpu_state()}
    found = lines_of(result, variant.backend)
    with (options.out / "raw.jsonl").open("a") as raw:
        for line in found:
            raw.write(json.dumps({**facts, **line}) + "\n")
    for line in found:
        print(f"  {line['policy']:<6} {line['setting']:<16} {brief(line)}", flush=True)
    print(f"{task.variant}: exit {code}, {time.perf_counter() - began:.0f} s", flush=True)
    if code:
        print((options.out / "log.txt").read_text(errors="replace")[-3000:], flush=True)


def brief(line: dict[str, Any]) -> str:
    """For people who watch."""
    if "step_s" not in line:
        return str(line.get("error") or line.get("skipped"))
    steps = sorted(line["step_s"][-3:])
    tokens = line["batch"] * line["accum"] * line["seq"]
    loss = "loss {loss_first} .. {loss_last}".format(**line)
    return f"{tokens / steps[1]:,.0f} tokens/s, {line['peak_alloc_gib']} / {line['peak_reserved_gib']} GiB, {loss}"


def run_round(options: argparse.Namespace) -> None:
    """All tasks of a round, as far as the time goes."""
    began = time.perf_counter()
    tasks = parse_tasks(options.tasks)
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = prepare(options.scratch, options.shape)
    print(f"prepared in {time.perf_counter() - began:.0f} s; {gpu_state()}", flush=True)
    for task in tasks:
        left = int(options.limit - (time.perf_counter() - began))
        if left < SHORTEST:
            print(f"{task.variant}: not started, {left} s left", flush=True)
            continue
        run_task(task, options, checkpoint, min(left, options.task_limit))
    print(f"round {options.round} took {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), default=Path("engine_h200_raw").resolve())
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--settings", default=SETTINGS)
    parser.add_argument("--limit", type=int, default=540, help="seconds for all tasks together")
    parser.add_argument("--task-limit", type=int, default=LONGEST, help="seconds for one task")
    parser.add_argument("--shape", default="llama8b", help="a shape of gen_ckpt.py")
    parser.add_argument("--scratch", type=Path, default=Path.home() / ".cache" / "whet_engine_h200")
    parser.add_argument("--summarise", nargs="+", type=Path, metavar="RAW")
    parser.add_argument("--result", type=Path, help="where --summarise writes, if not to results/engine_h200.json")
    options = parser.parse_args()
    if options.summarise:
        from engine_h200_summary import write_summary

        write_summary(options.summarise, options.result)
    else:
        run_round(options)


if __name__ == "__main__":
    main()
