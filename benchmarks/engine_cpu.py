"""The engine on a CPU: LoRA training by whet's engine, by the model's own forward, and by TRL + PEFT, in one run.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/engine_cpu.py [--shapes starter,135m] [--variants ...] [--repeats 3]

Two shapes: the starter, and a random Llama of SmolLM-135M's shape. Same rows of the sample task, tokens, rank, batch
and learning rate for each variant. Real tokens (padding not counted) over the seconds from the end of the first
optimizer step to the end of the last. The variants take turns, each in a process of its own. whet runs as ``whet
train`` does (frozen weights in the format that trains fastest here, OpenMP's threads as it sets them), TRL with torch's
defaults. A shape measured by itself is added to the day's result of the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from record import RESULTS, record, spread

from whet import runtime

ROW_TOKENS, ROWS_A_STEP, RANK, RATE = 256, 4, 16, 1e-3
ROWS = {"starter": 600, "135m": 100}  # 33 and 6 steps
WAITING = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
)  # how OpenMP's threads wait: whet sets it, for TRL it is torch's default
VARIANTS: dict[str, dict[str, bool]] = {
    "whet_engine": {"engine": True},
    "whet_plain": {"engine": False},
    "trl_packing_float32": {"bf16": False},
    "trl_packing_bf16_autocast": {"bf16": True},
}


class Skipped(Exception):
    """A variant that cannot run here, and why."""


def pairs(count: int) -> list[dict[str, str]]:
    from whet.sample import train_rows

    head = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [{"prompt": head.format(row.question), "completion": row.sql} for row in train_rows()[:count]]


def clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Seconds from the end of the first step to the end of the last, and the steps between."""

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            self.last = time.perf_counter()
            self.steps = getattr(self, "steps", -1) + 1
            if self.steps == 0:
                self.first = self.last

    return Clock()


def make_135m(folder: str) -> None:
    """A random Llama of SmolLM-135M's shape (its config.json), with the starter's tokenizer, whose ids it covers."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from whet import starter_path

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=3,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(starter_path()).save_pretrained(folder)


def run_whet(model_path: str, rows: list[dict[str, str]], folder: str, engine: bool) -> dict[str, float]:
    from datasets import Dataset

    from whet import FastLanguageModel, SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(model_path, max_seq_length=ROW_TOKENS, load_in_4bit=False)
    model = FastLanguageModel.get_peft_model(model, r=RANK, lora_alpha=2 * RANK)
    timer = clock()
    args = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=ROWS_A_STEP,
        learning_rate=RATE,
        num_train_epochs=1,
        save_strategy="no",
    )
    trainer: Any = SFTTrainer(
        model, tokenizer, args=args, train_dataset=Dataset.from_list(rows), packing=True, callbacks=[timer]
    )
    if engine and getattr(trainer, "engine", None) is None:
        raise Skipped("the trainer has no engine for this model")
    if not engine:
        without_engine(trainer)
    return timed(trainer, timer, trainer.prepared.stats.tokens)


def without_engine(trainer: Any) -> None:
    """The model's own forward with the fused loss, as for a model that the engine does not know."""

    if getattr(trainer, "engine", None) is not None:
        trainer.engine.release()
        trainer.attachment.engine = None


def run_trl(model_path: str, rows: list[dict[str, str]], folder: str, bf16: bool) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from whet.models.adapters import ALL_LINEAR

    timer = clock()
    args = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=ROWS_A_STEP,
        learning_rate=RATE,
        num_train_epochs=1,
        save_strategy="no",
        packing=True,
        max_length=ROW_TOKENS,
        bf16=bf16,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model_path),
        peft_config=lora,
        callbacks=[timer],
    )
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
    return timed(trainer, timer, tokens)


def timed(trainer: Any, timer: Any, tokens: int) -> dict[str, float]:
    """Tokens of the steps after the first one, by their share of all steps."""
    output = trainer.train()
    counted = tokens * timer.steps / (timer.steps + 1)
    seconds = timer.last - timer.first
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": counted / seconds, "loss": output.training_loss}


def worker(variant: str, model_path: str, rows: int) -> None:
    if variant.startswith("whet"):
        runtime.share_cores()  # as the command line does, before torch is imported
    run = run_whet if variant.startswith("whet") else run_trl
    with tempfile.TemporaryDirectory() as folder:
        try:
            found: dict[str, Any] = run(model_path, pairs(rows), folder, **VARIANTS[variant])
        except Skipped as why:
            found = {"skipped": str(why)}
    print("RESULT " + json.dumps(found))


def one_run(variant: str, model_path: str, rows: int, limit: float) -> dict[str, Any]:
    """The figures of one process, or why there are none."""
    command = [sys.executable, __file__, "--worker", variant, "--model", model_path, "--rows", str(rows)]
    variables = {name: value for name, value in os.environ.items() if name not in WAITING} | {"HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"skipped": f"did not end within {limit:.0f} s"}
    if done.returncode:
        raise SystemExit(f"{variant} failed:\n{done.stderr[-3000:]}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def measure(shape: str, variants: list[str], repeats: int, rows: int, limit: float) -> dict[str, Any]:
    """All variants of one shape, in turns."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if shape == "135m":
            make_135m(folder)
        for _ in range(repeats):
            for name in [name for name in variants if name not in skipped]:
                found = one_run(name, "starter" if shape == "starter" else folder, rows, limit)
                print(shape, name, found, flush=True)
                if "skipped" in found:
                    skipped[name] = found["skipped"]
                else:
                    runs[name].append(found)
    return {"rows": rows, "variants": figures_of(runs) | skipped, **ratios(figures_of(runs))}


def measured_today() -> dict[str, Any]:
    """Shapes of the result file, if it is of today and of the same versions."""
    path = RESULTS / f"{Path(__file__).stem}.json"
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    today = found["date"] == date.today().isoformat() and found["versions"] == runtime.versions()
    return dict(found["shapes"]) if today else {}


def figures_of(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    return {
        name: {
            "tokens": found[0]["tokens"],
            "loss": round(found[0]["loss"], 4),
            "tokens_per_second": spread([one["tokens_per_second"] for one in found], 1),
        }
        for name, found in runs.items()
        if found
    }


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """The engine's median against the best of TRL's and against the model's own forward."""
    speeds = {name: figure["tokens_per_second"]["median"] for name, figure in figures.items()}
    trl = [speed for name, speed in speeds.items() if name.startswith("trl")]
    found = {}
    if "whet_engine" in speeds and trl:
        found["engine_vs_best_trl"] = round(speeds["whet_engine"] / max(trl), 3)
    if "whet_engine" in speeds and "whet_plain" in speeds:
        found["engine_vs_plain"] = round(speeds["whet_engine"] / speeds["whet_plain"], 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(ROWS))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--rows", type=int, help=f"of every shape; unset: {ROWS}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600, help="seconds that one process may take")
    parser.add_argument("--dry", action="store_true", help="print the figures, write no result")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        from whet import starter_path

        model_path = str(starter_path()) if args.model == "starter" else args.model
        worker(args.worker, model_path, args.rows)
        return
    shapes = {
        shape: measure(shape, args.variants.split(","), args.repeats, args.rows or ROWS[shape], args.limit)
        for shape in args.shapes.split(",")
    }
    if args.dry:
        print(json.dumps(shapes, indent=2))
        return
    shapes = measured_today() | shapes
    record(Path(__file__).stem, rank=RANK, row_tokens=ROW_TOKENS, rows_a_step=ROWS_A_STEP, shapes=shapes)


if __name__ == "__main__":
    main()
