"""Seconds from the start of a Python process to the end of the first optimizer step, for ``engine_h200.py``.

What a user's script does, through whet's public names: load, add LoRA, ``SFTTrainer`` with one optimizer step of whole
rows. Loading the weights is timed by itself and taken out; Triton starts and compiles meanwhile. Two processes, one
after the other: with an empty Triton cache (a machine's first run), and with what the first one left. ``within_s`` are
parts of the parts, timed around whet's own functions.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from engine_h200_rows import Setting, parse_settings, texts_of

OTHERS = ("torch", "transformers", "peft", "bitsandbytes", "datasets")


def triton_files() -> int:
    """Files in Triton's cache: 0 where every kernel has to be compiled."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    return sum(1 for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


def fitting(setting: Setting, model: str, tokenizer: Any) -> list[dict[str, str]]:
    """Texts of at most the setting's length: longer ones would be left out."""
    texts = texts_of(setting, model, tokenizer)
    for_word = max(len(tokenizer(text)["input_ids"]) for text in texts[:2]) / setting.seq
    count = int((setting.seq - 4) / for_word * 0.98)
    return [{"text": " ".join(text.split(" ")[:count])} for text in texts]


def clock() -> Any:
    import torch
    from transformers import TrainerCallback

    class FirstStep(TrainerCallback):
        """When training began, and when the first step was done."""

        began = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ended = self.ended or time.time()

    return FirstStep()


class Parts:
    """Seconds spent in whet's own functions, by a name for each; one within another counts in both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.late: list[str] = []  # kernels compiled one by one, when they were launched
        self.ahead: list[str] = []

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Time every call of ``owner.function``."""
        plain = getattr(owner, function)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*arguments, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        setattr(owner, function, timed)

    def watch_all(self) -> None:
        from whet.engine import attention
        from whet.engine.forward import Engine
        from whet.train import engine, memory_plan, sft_trainer
        from whet.train.trainer import WhetTrainer

        self.watch(sft_trainer, "prepare", "rows")
        self.watch(WhetTrainer.__mro__[1], "__init__", "transformers_trainer")
        self.watch(engine, "triton_problem", "triton_starts")
        self.watch(engine, "read_model", "read_model")
        self.watch(engine, "compile_ahead", "compile")
        self.watch(engine, "Engine", "attach")
        self.watch(engine, "self_check", "self_check")
        self.watch(attention, "parts_of", "attention_choice")
        self.watch(memory_plan, "_card", "card_rates")
        self.watch(WhetTrainer, "_plan", "plan")
        self.watch(WhetTrainer, "_probe", "probe")
        self.watch(Engine, "set_resident", "dense_copies")

    def listen(self) -> None:
        """Count the kernels that Triton compiles, in whet's threads and outside of them."""
        from triton import knobs

        def compiled(src: Any, cache_hit: bool, **_: Any) -> None:
            if not cache_hit:
                pool = threading.current_thread().name.startswith("ThreadPoolExecutor")
                (self.ahead if pool else self.late).append(str(src.name))

        knobs.compilation.listener = compiled


def imports(marks: list[tuple[str, float]], four_bit: bool) -> None:
    """Other libraries first, one after the other, then whet's own modules; as ``from whet import ...`` imports them."""
    from whet.runtime import installed, quick_imports

    with quick_imports():
        _imports(marks, four_bit and installed("bitsandbytes"))


def _imports(marks: list[tuple[str, float]], four_bit: bool) -> None:
    import torch  # noqa: F401

    marks.append(("torch", time.time()))
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    marks.append(("transformers", time.time()))
    import peft  # noqa: F401

    marks.append(("peft", time.time()))
    if four_bit:
        import bitsandbytes  # noqa: F401  # an import, though loading would do it

        marks.append(("bitsandbytes", time.time()))
    import datasets  # noqa: F401

    marks.append(("datasets", time.time()))
    import whet.models.load
    import whet.train.sft_trainer  # noqa: F401

    marks.append(("whet", time.time()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--storage", choices=("nf4", "bf16"), required=True)
    parser.add_argument("--settings", required=True, help="one; its steps are not used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() when the process was started")
    parser.add_argument("--profile", action="store_true", help="print where Python spends its time from loading on")
    parser.add_argument("--once", action="store_true", help="with the Triton cache as it is")
    return parser.parse_args()


def main() -> None:
    """A process with an empty Triton cache, then one that finds the first one's kernels."""
    options = arguments()
    if options.once:
        one(options)
        return
    given = sys.argv[1:]
    given[given.index("--started") : given.index("--started") + 2] = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            program = [sys.executable, __file__, *given, "--once", "--started", str(time.time())]
            subprocess.run(program, check=True, env={**os.environ, "TRITON_CACHE_DIR": cache})


def seconds_of(marks: list[tuple[str, float]]) -> dict[str, Any]:
    """Seconds between the marks, which are times, and what they add up to."""
    parts = {f"{name}_s": round(end - marks[i][1], 2) for i, (name, end) in enumerate(marks[1:])}
    aside = parts["load_s"] + parts["texts_s"]  # making random words is no part of a user's start
    others = sum(parts.get(f"{name}_s", 0.0) for name in OTHERS)
    total = marks[-1][1] - marks[0][1] - aside
    return {
        "parts": parts,
        "import_to_first_step_s": round(total, 2),
        "imports_of_other_libraries_s": round(others, 2),
        "whet_s": round(total - others, 2),
    }


def one(options: argparse.Namespace) -> None:
    (setting,) = parse_settings(options.settings)
    cached, marks = triton_files(), [("start", options.started), ("python", time.time())]
    four_bit, watched = options.storage == "nf4", Parts()
    imports(marks, four_bit)
    import torch

    from whet import runtime
    from whet.models.adapters import add_lora
    from whet.models.load import load_model
    from whet.train.engine import head_start
    from whet.train.sft_trainer import SFTConfig, SFTTrainer

    if torch.cuda.is_available():
        watched.listen()
    watched.watch_all()
    profiler = cProfile.Profile()
    if options.profile:
        profiler.enable()
    head_start(options.model, None, four_bit=four_bit)
    model, tokenizer = load_model(options.model, load_in_4bit=four_bit, training=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    marks.append(("load", time.time()))
    model = add_lora(model, rank=16, alpha=16)
    marks.append(("lora", time.time()))
    rows, timer = fitting(setting, options.model, tokenizer), clock()
    marks.append(("texts", time.time()))
    config = SFTConfig(
        output_dir="start_out", max_steps=1, per_device_train_batch_size=setting.batch, report_to="none",
        gradient_accumulation_steps=setting.accum, max_length=setting.seq, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    trainer = SFTTrainer(model, tokenizer, args=config, train_dataset=rows, callbacks=[timer])
    marks.append(("trainer", time.time()))
    engine = trainer.engine
    trainer.train()
    marks += [("begin", timer.began), ("first_step", timer.ended)]
    if options.profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("cumulative").print_stats(90)
    found = {
        "policy": "start",
        **setting.facts,
        **seconds_of(marks),
        "within_s": {name: round(seconds, 2) for name, seconds in watched.seconds.items()},
        "triton_cache_files_before": cached,
        "kernels_compiled_ahead": sorted(watched.ahead),
        "kernels_compiled_late": sorted(watched.late),
        "profiled": options.profile,
        "engine": engine is not None,
        "layers": sorted(set(engine.policies)) if engine is not None else None,
        "trained_rows": len(trainer.prepared),
        "versions": runtime.versions(),
        "device": runtime.device_facts(),
    }
    with options.out.open("a") as out:
        out.write(json.dumps(found) + "\n")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
