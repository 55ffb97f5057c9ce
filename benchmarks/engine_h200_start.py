"""Seconds from the start of a Python process to the end of the first optimizer step, for ``engine_h200.py``.

What a user's script does, through whet's public names: load, add LoRA, ``SFTTrainer`` with one optimizer step of whole
rows. Loading the weights is timed by itself and taken out. Triton's cache may be empty (a machine's first run) or not.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from engine_h200_rows import Setting, parse_settings, texts_of


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--storage", choices=("nf4", "bf16"), required=True)
    parser.add_argument("--settings", required=True, help="one; its steps are not used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() when the process was started")
    options = parser.parse_args()
    (setting,) = parse_settings(options.settings)
    cached, marks = triton_files(), [("start", options.started), ("python", time.time())]

    import torch

    marks.append(("torch", time.time()))
    from whet import runtime
    from whet.models.adapters import add_lora
    from whet.models.load import load_model
    from whet.train.sft_trainer import SFTConfig, SFTTrainer

    marks.append(("whet", time.time()))
    if options.storage == "nf4" and runtime.installed("bitsandbytes"):
        import bitsandbytes  # noqa: F401  # an import, though loading would do it

        marks.append(("bitsandbytes", time.time()))
    model, tokenizer = load_model(options.model, load_in_4bit=options.storage == "nf4")
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
    parts = {f"{name}_s": round(end - marks[i][1], 2) for i, (name, end) in enumerate(marks[1:])}
    aside = parts["load_s"] + parts["texts_s"]  # making random words is no part of a user's start
    found = {
        "policy": "start",
        **setting.facts,
        "parts": parts,
        "import_to_first_step_s": round(timer.ended - options.started - aside, 2),
        "triton_cache_files_before": cached,
        "engine": engine is not None,
        "layers": sorted(set(engine.policies)) if engine is not None else None,
        "trained_rows": len(trainer.prepared),
        "versions": runtime.versions(),
        "device": runtime.device_facts(),
    }
    options.out.write_text(json.dumps(found) + "\n")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
