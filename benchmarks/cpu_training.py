"""LoRA training on a CPU: whet against TRL + PEFT on the same rows, in one run.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/cpu_training.py [--rows 300] [--repeats 3]

One epoch of the sample task's first rows as prompt and completion: the same rows, the same tokens, the same rank, batch
and learning rate for each variant. Real tokens (padding not counted) over the seconds from the first optimizer step to
the last one. The variants take turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from record import record, spread

ROW_TOKENS, ROWS_A_STEP, RANK, RATE = 256, 4, 16, 1e-3
PADDED_ROWS = 16  # about as many real tokens in a step as 4 packed rows of 256
VARIANTS = {
    "whet": {},
    "trl_packing_bf16_autocast": {"packing": True, "bf16": True},
    "trl_packing_float32": {"packing": True, "bf16": False},
    "trl_padded_float32": {"packing": False, "bf16": False},
}


def pairs(count: int) -> list[dict[str, str]]:
    from whet.sample import train_rows

    head = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [{"prompt": head.format(row.question), "completion": row.sql} for row in train_rows()[:count]]


def clock() -> object:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Seconds from the end of the first step to the end of the last, and the steps between."""

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            self.last = time.perf_counter()
            self.steps = getattr(self, "steps", -1) + 1
            if self.steps == 0:
                self.first = self.last

    return Clock()


def run_whet(rows: list[dict[str, str]], folder: str) -> dict[str, float]:
    from datasets import Dataset

    from whet import FastLanguageModel, SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained("starter", max_seq_length=ROW_TOKENS, load_in_4bit=False)
    model = FastLanguageModel.get_peft_model(model, r=RANK, lora_alpha=2 * RANK)
    timer = clock()
    args = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=ROWS_A_STEP,
        learning_rate=RATE,
        num_train_epochs=1,
        save_strategy="no",
    )
    trainer = SFTTrainer(
        model, tokenizer, args=args, train_dataset=Dataset.from_list(rows), packing=True, callbacks=[timer]
    )
    return timed(trainer, timer, trainer.prepared.stats.tokens)


def run_trl(rows: list[dict[str, str]], folder: str, packing: bool, bf16: bool) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from whet import starter_path
    from whet.models.adapters import ALL_LINEAR

    model = AutoModelForCausalLM.from_pretrained(starter_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(starter_path())
    timer = clock()
    args = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=ROWS_A_STEP if packing else PADDED_ROWS,
        learning_rate=RATE,
        num_train_epochs=1,
        save_strategy="no",
        packing=packing,
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
        model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[timer],
    )
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
    return timed(trainer, timer, tokens)


def timed(trainer: object, timer: object, tokens: int) -> dict[str, float]:
    """Tokens of the steps after the first one, by their share of all steps."""
    output = trainer.train()
    counted = tokens * timer.steps / (timer.steps + 1)
    seconds = timer.last - timer.first
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": counted / seconds, "loss": output.training_loss}


def worker(variant: str, rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = pairs(rows)
        found = run_whet(data, folder) if variant == "whet" else run_trl(data, folder, **VARIANTS[variant])
    print("RESULT " + json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600, help="seconds that one process may take")
    parser.add_argument("--variant")
    args = parser.parse_args()
    if args.variant:
        worker(args.variant, args.rows)
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    too_slow: dict[str, str] = {}
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # the same for all
    for _ in range(args.repeats):
        for name in [name for name in VARIANTS if name not in too_slow]:
            command = [sys.executable, __file__, "--variant", name, "--rows", str(args.rows)]
            try:
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, env=variables, timeout=args.limit
                )
            except subprocess.TimeoutExpired:
                too_slow[name] = f"did not end within {args.limit:.0f} s"
                print(name, too_slow[name], flush=True)
                continue
            line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
            runs[name].append(json.loads(line.removeprefix("RESULT ")))
            print(name, runs[name][-1], flush=True)
    figures = {
        name: {
            "tokens": found[0]["tokens"],
            "loss": round(found[0]["loss"], 4),
            "tokens_per_second": spread([one["tokens_per_second"] for one in found], 1),
        }
        for name, found in runs.items()
        if found
    }
    best = max(figure["tokens_per_second"]["median"] for name, figure in figures.items() if name != "whet")
    ratio = round(figures["whet"]["tokens_per_second"]["median"] / best, 3)
    record(
        "cpu_training",
        rows=args.rows,
        rank=RANK,
        row_tokens=ROW_TOKENS,
        variants=figures | too_slow,
        whet_vs_best_trl=ratio,
    )


if __name__ == "__main__":
    main()
