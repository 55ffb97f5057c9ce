"""whet's engine against Unsloth and TRL + PEFT on one H200 or H100: the same random Llamas, the same rows, in turns.

    python benchmarks/engine_h200.py --round main --out FOLDER [--limit 555]
    python benchmarks/engine_h200.py --round shapes --out FOLDER [--limit 555]
    python benchmarks/engine_h200.py --summarise FOLDER/raw.jsonl ...

Run from the root of the checkout. ``main`` is the 8B shape at 8 x 2,048 tokens, ``shapes`` the rest: longer rows, the
1B shape, packed documents; ``memory`` sets weights streamed from main memory beside Unsloth in 4 and 16 bits. Every
task is a process of its own, and neighbours in time are compared. A round that was not finished goes on where it
stopped when it is started again on the same machine. Another list of tasks:

    --tasks '[MODEL/]VARIANT[:POLICY+POLICY][@SETTING+SETTING],...'

with a model of engine_h200_model.py, a variant of this file, whet's policies (engine_h200_whet.py) and settings
(engine_h200_rows.py). Each finished setting becomes one line of ``FOLDER/raw.jsonl``, with every step time; a round
begins with what the card sustains (engine_h200_card.py). ``--summarise`` writes ``results/engine_h200.json`` and needs
no GPU.

The machine needs torch 2.11 for CUDA 13, transformers 5.17, accelerate 1.15. ``.peer/site.tar.xz`` beside ``whet`` (not
in the repository) holds Unsloth 2026.10.9, TRL 1.15, PEFT 0.21.2, datasets 4.8.5, bitsandbytes 0.50.2 and what they
need; ``.peer/more.tar.xz``, if there, is unpacked where the machine has no pyarrow. xFormers 0.0.35 from PyPI is built
for CUDA 12.8 and does not load beside this torch; FlashAttention has no package for it.
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
HERE = ROOT / "benchmarks"
PEER = ROOT / ".peer"
MODEL, MAIN = "llama8b", "b8a1s2048n8w3"
LONG = "b2a4s2048n6w2+b1a1s8192n6w2+b1a1s16384n5w2+b1a1s32768n4w1"
LESS = f"{MAIN}+b4a2s2048n7w3"
PACKED = "b8a1s2048n10w4p"
SMALL = "llama1b/"  # the 1B shape's tasks
SMALL_MAIN = "b8a1s2048n12w4"
POLICIES = "none+full+24gib+resident"
SHORTEST, LONGEST = 38, 175  # seconds of a task: with less time left none is started, with more it is stopped
STATE = "name,driver_version,clocks.sm,power.draw,temperature.gpu"


class Variant(NamedTuple):
    """One trainer. ``program``: of this folder. ``more``: its arguments. ``switches``: environment of the process."""

    program: str
    four_bit: bool
    more: tuple[str, ...] = ()
    switches: tuple[tuple[str, str], ...] = ()


UNSLOTH = ("--backend", "unsloth")
BEST = (("UNSLOTH_SDPA_CUDNN_BUCKET", "0"),)  # no padding of rows to the next multiple of 128 before cuDNN's attention
PADDED = (("UNSLOTH_PADDING_CHOICE", "padded"),)  # padded batches, its blocks compiled
VARIANTS = {
    "whet-nf4": Variant("whet", True),
    "whet-bf16": Variant("whet", False),
    "whet-bf16-streamed": Variant("whet", False, ("--streamed",)),
    "whet-start": Variant("start", True),
    "whet-start-profile": Variant("start", True, ("--profile",)),
    "unsloth": Variant("peer", True, UNSLOTH),
    "unsloth-best": Variant("peer", True, UNSLOTH, BEST),
    "unsloth-padded": Variant("peer", True, UNSLOTH, (*BEST, *PADDED)),
    "unsloth-varlen": Variant("peer", True, (*UNSLOTH, "--varlen")),
    "unsloth-grouped": Variant("peer", True, (*UNSLOTH, "--documents", "grouped"), PADDED),
    "unsloth-bf16": Variant("peer", False, UNSLOTH),
    "unsloth-bf16-best": Variant("peer", False, UNSLOTH, BEST),
    "hf": Variant("peer", True, ("--backend", "hf")),
    "hf-grouped": Variant("peer", True, ("--backend", "hf", "--documents", "grouped")),
    "hf-bf16": Variant("peer", False, ("--backend", "hf")),
}
ROUNDS = {
    "main": (
        "whet-start",
        "whet-nf4:none+full+24gib+resident",
        "unsloth-best",
        "whet-nf4:resident+24gib",
        "unsloth",
        "hf",
        "whet-nf4:resident+full",
        "unsloth-best",
        "whet-start",
        "whet-bf16:none+full",
        "unsloth-bf16-best",
        "unsloth-padded",
        "unsloth-bf16",
        "hf-bf16",
    ),
    "shapes": (
        f"whet-nf4:fit@{LONG}",
        f"unsloth-best@{LONG}",
        f"whet-nf4:none+full@{PACKED}",
        f"unsloth-varlen@{PACKED}",
        f"unsloth@{PACKED}",
        f"hf-grouped@{PACKED}",
        f"{SMALL}whet-nf4:resident+none+full",
        f"{SMALL}unsloth-best",
        f"{SMALL}hf",
        f"{SMALL}whet-bf16:none",
        f"{SMALL}unsloth-bf16-best",
        f"unsloth-grouped@{PACKED}",
        f"{SMALL}unsloth",
        f"{SMALL}hf-bf16",
        f"whet-nf4:full@{LONG}",
    ),
    "memory": (
        f"whet-bf16-streamed:full@{LESS}",
        f"unsloth-best@{LESS}",
        f"unsloth-bf16-best@{LESS}",
        f"whet-bf16-streamed:full@{LESS}",
        f"whet-nf4:full@{LESS}",
    ),
}


class Task(NamedTuple):
    """A variant's turn."""

    text: str
    model: str
    variant: str
    policies: str
    settings: str


def parse_task(text: str) -> Task:
    """A task of ``--tasks``.

    Raises:
        ValueError: an unknown variant, or policies of a peer.
    """
    rest, _, settings = text.partition("@")
    model, slash, rest = rest.rpartition("/")
    name, _, policies = rest.partition(":")
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r}; known: {', '.join(VARIANTS)}")
    if policies and VARIANTS[name].program != "whet":
        raise ValueError(f"{name} has no policies")
    settings = settings or (SMALL_MAIN if slash else MAIN)
    return Task(text, model or MODEL, name, policies or POLICIES, settings)


def unpack(scratch: Path) -> None:
    """The packages, once on a machine."""
    site = scratch / "site"
    if not (PEER / "site.tar.xz").exists() or (site / ".done").exists():
        return
    site.mkdir(parents=True, exist_ok=True)
    names = ["site.tar.xz"]
    if (PEER / "more.tar.xz").exists() and subprocess.run([sys.executable, "-c", "import pyarrow, pandas"]).returncode:
        names.append("more.tar.xz")
    for name in names:
        subprocess.run(["tar", "xJf", str(PEER / name), "-C", str(site)], check=True)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-j", "0", str(site), str(ROOT / "whet")], stdout=2)
    (site / ".done").touch()


def checkpoint_of(model: str, scratch: Path) -> Path:
    """The checkpoint's folder; written once on a machine."""
    folder = scratch / model
    if not (folder / ".done").exists():
        program = [sys.executable, str(HERE / "engine_h200_model.py"), str(folder), model]
        subprocess.run(program, check=True, env=environment((), scratch))
        (folder / ".done").touch()
    return folder


def environment(switches: tuple[tuple[str, str], ...], scratch: Path) -> dict[str, str]:
    """Of a process: nothing is looked up on the network."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "UNSLOTH_DISABLE_STATISTICS")
    paths = [str(scratch / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    fixed = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HOME": str(scratch / "hf")}
    fixed |= {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **fixed, **dict.fromkeys(offline, "1"), **dict(switches)}


def command(task: Task, folder: Path, result: Path, seconds: int) -> list[str]:
    """The program of a task; it writes ``result``."""
    variant = VARIANTS[task.variant]
    arguments = ["--model", str(folder), "--settings", task.settings, "--out", str(result)]
    arguments += ["--started", str(time.time()), *variant.more]
    if variant.program != "peer":
        arguments += ["--storage", "nf4" if variant.four_bit else "bf16"]
    if variant.program == "whet":
        arguments += ["--policies", task.policies]
    if variant.program == "peer":
        arguments += ["--budget", str(seconds - 12), *(["--four-bit"] if variant.four_bit else [])]
    return [sys.executable, str(HERE / f"engine_h200_{variant.program}.py"), *arguments]


def lines_of(result: Path) -> list[dict[str, Any]]:
    """What a process has measured: one entry for each finished setting and policy."""
    return [json.loads(line) for line in result.read_text().splitlines()] if result.exists() else []


def gpu_state() -> str:
    """Name, driver, clock, power and temperature; empty without a GPU."""
    query = ["nvidia-smi", f"--query-gpu={STATE}", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def write_raw(options: argparse.Namespace, lines: list[dict[str, Any]]) -> None:
    with (options.out / "raw.jsonl").open("a") as raw:
        raw.writelines(json.dumps(line) + "\n" for line in lines)


def run_card(options: argparse.Namespace) -> None:
    """What the card sustains, now."""
    program = [sys.executable, str(HERE / "engine_h200_card.py"), *options.card_arguments.split()]
    asked = subprocess.run(program, capture_output=True, text=True)
    if asked.returncode:
        print(f"the card was not measured: {asked.stderr[-500:]}", flush=True)
        return
    shown = asked.stdout.strip().splitlines()[-1]
    line = {"round": options.round, "variant": "card", "gpu_after": gpu_state(), **json.loads(shown)}
    write_raw(options, [line])
    print(shown, flush=True)


def run_task(task: Task, turn: int, options: argparse.Namespace, seconds: int) -> int:
    """One process; its lines go to raw.jsonl, what it printed to log.txt. Returns its exit status."""
    began = time.perf_counter()
    folder = checkpoint_of(task.model, options.scratch)
    work = options.scratch / "work"
    work.mkdir(parents=True, exist_ok=True)
    result = work / f"{task.variant}.json"
    result.unlink(missing_ok=True)
    before, switches = gpu_state(), VARIANTS[task.variant].switches
    with (options.out / "log.txt").open("a") as log:
        log.write(f"##### round {options.round}, {turn}: {task.text}\n")
        log.flush()
        try:
            code = subprocess.run(
                command(task, folder, result, seconds), cwd=work, env=environment(switches, options.scratch),
                stdout=log, stderr=log, timeout=seconds,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = 124
    facts = {"round": options.round, "turn": turn, "model": task.model, "variant": task.variant}
    facts |= {"switches": dict(switches), "gpu_before": before, "gpu_after": gpu_state()}
    found = lines_of(result)
    write_raw(options, [{**facts, **line} for line in found])
    for line in found:
        print(f"  {line['policy']:<8} {line['setting']:<16} {brief(line)}", flush=True)
    print(f"{turn}: {task.text}: exit {code}, {time.perf_counter() - began:.0f} s", flush=True)
    if code:
        print((options.out / "log.txt").read_text(errors="replace")[-1500:], flush=True)
    return code


def brief(line: dict[str, Any]) -> str:
    """For people who watch."""
    if line["policy"] == "start":
        own = f"{line['whet_s']} s without imports of other libraries"
        return f"{line['import_to_first_step_s']} s to the first step, {own}; {line['parts']}; {line['within_s']}"
    if not line.get("step_s"):
        return str(line.get("error"))
    rate = sum(line["tokens"][-3:]) / sum(line["step_s"][-3:])
    loss = "loss {loss_first} .. {loss_last}".format(**line)
    return f"{rate:,.0f} tokens/s, {line['peak_alloc_gib']} / {line['peak_reserved_gib']} GiB, {loss}"


def run_round(options: argparse.Namespace) -> None:
    """All tasks of a round that this machine has not done yet, as far as the time goes."""
    began = time.perf_counter()
    tasks = [parse_task(text) for text in (options.tasks.split(",") if options.tasks else ROUNDS[options.round])]
    options.out.mkdir(parents=True, exist_ok=True)
    options.scratch.mkdir(parents=True, exist_ok=True)
    unpack(options.scratch)
    checkpoint_of(tasks[0].model, options.scratch)
    print(f"prepared in {time.perf_counter() - began:.0f} s; {gpu_state()}", flush=True)
    run_card(options)
    done = options.scratch / f"done-{options.round}.txt"
    for turn, task in enumerate(tasks, start=1):
        key = f"{turn} {task.text}\n"
        if done.exists() and key in done.read_text().splitlines(keepends=True):
            continue
        left = int(options.limit - (time.perf_counter() - began))
        if left < SHORTEST:
            print(f"{turn}: {task.text}: not started, {left} s left", flush=True)
        elif run_task(task, turn, options, min(left, options.task_limit)) == 0:
            with done.open("a") as out:
                out.write(key)
    print(f"round {options.round} took {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round", default="main", help=f"{' or '.join(ROUNDS)}; with --tasks any name")
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), default=Path("engine_h200_raw").resolve())
    parser.add_argument("--tasks", help="instead of the round's")
    parser.add_argument("--limit", type=int, default=555, help="seconds for all tasks together")
    parser.add_argument("--task-limit", type=int, default=LONGEST, help="seconds for one task")
    parser.add_argument("--scratch", type=Path, default=Path.home() / ".cache" / "whet_engine_h200")
    parser.add_argument("--card-arguments", default="", help="of engine_h200_card.py")
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
