"""One trainer's part of ``preference_speed.py``: a process that trains DPO pairs in several settings.

    python benchmarks/preference_speed_run.py --who whet|trl --kind lora|full --settings b1a4s2048n8w3+...
        --variants fastest+smallest --out FILE

A setting ``b1a4s2048n8w3``: 1 pair a batch, 4 batches a step, rows of 2,048 tokens, 8 steps of which 3 are warm-up. Of
a row's tokens half are the prompt and a quarter each answer: TRL, which runs the prompt with both answers, computes 1.5
times as many. The tokens are random, the same for every trainer, and all rows are equally long: nothing is padded.

The time of a step is taken between the ends of optimizer steps, with the GPU idle. In full fine-tuning whet computes
the reference ahead, once for each pair; its time for a step's pairs, after a batch to warm up, is added to the step, as
TRL computes it in the step.

Variants: of whet a goal of its memory plan (fastest, smallest, full, ...), or ``streamed``: the fastest with the
layers' weights in main memory; of TRL ``plain``, ``liger`` (its ``use_liger_kernel``) and ``keep`` (with
Liger, without gradient checkpointing).
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import re
import statistics
import sys
import time
import traceback
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, TrainerCallback, TrainingArguments

SHAPES: dict[str, dict[str, int]] = {
    "qwen3b": {  # Qwen2.5-3B
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 512,
    },
}  # fmt: skip
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, BETA, RATE, GIB = 16, 0.1, 1e-6, 2**30
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "triton", "liger-kernel")
Pair = tuple[list[int], list[int], list[int]]  # prompt, chosen, rejected


class Setting(NamedTuple):
    """See the module."""

    label: str
    batch: int
    accum: int
    tokens: int
    steps: int
    warmup: int

    @property
    def pairs(self) -> int:
        """Of an optimizer step."""
        return self.batch * self.accum


def parse_setting(label: str) -> Setting:
    """Raises ValueError where a setting does not read like the module says."""
    match = re.fullmatch(r"b(\d+)a(\d+)s(\d+)n(\d+)w(\d+)", label)
    if match is None:
        raise ValueError(f"setting {label!r}; expected something like b1a4s2048n8w3")
    return Setting(label, *map(int, match.groups()))


def pairs_of(setting: Setting, vocab: int) -> list[Pair]:
    """Random tokens: half of a row is the prompt, a quarter each answer."""
    generator = torch.Generator().manual_seed(setting.tokens)
    prompt, answer = setting.tokens // 2, setting.tokens // 4
    ids = torch.randint(10, vocab, (setting.pairs * setting.steps, prompt + 2 * answer), generator=generator)
    return [tuple(part.tolist() for part in row.split([prompt, answer, answer])) for row in ids]  # type: ignore[misc]


def model_of(options: argparse.Namespace) -> Any:
    """Random weights; the same at every call."""
    torch.manual_seed(3407)
    numbers = {**SHAPES[options.shape], **({"vocab_size": options.vocab} if options.vocab else {})}
    config = Qwen2Config(**numbers, tie_word_embeddings=True, max_position_embeddings=32768, rope_theta=1e6)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, dtype=options.dtype, attn_implementation="sdpa")
    return model.to(options.device)


class Stopwatch(TrainerCallback):
    """Ends of optimizer steps; after the deadline the training stops at the next one."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.ends: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ends = [now()]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(now())
        control.should_training_stop = control.should_training_stop or time.time() > self.deadline


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def arguments(kind: Any, setting: Setting, options: argparse.Namespace, **more: Any) -> Any:
    """The settings that both trainers share."""
    cuda = options.device == "cuda"
    return kind(
        output_dir=str(options.out.parent / "trained"), per_device_train_batch_size=setting.batch,
        gradient_accumulation_steps=setting.accum, max_steps=setting.steps, learning_rate=RATE,
        lr_scheduler_type="constant", max_grad_norm=1.0, logging_steps=1, save_strategy="no", report_to="none",
        disable_tqdm=True, bf16=cuda, use_cpu=not cuda, optim="adamw_torch_fused" if cuda else "adamw_torch", **more,
    )  # fmt: skip


def whet_trainer(setting: Setting, options: argparse.Namespace, watch: Stopwatch) -> Any:
    from whet.config.sizes import parse_size
    from whet.data.answer_loader import AnswerDataset, CollateAnswers
    from whet.data.answer_rows import AnswerRows
    from whet.data.prepare import prepare
    from whet.models.adapters import add_lora
    from whet.text.encode import Encoded
    from whet.train.memory_plan import Wish
    from whet.train.preference.dpo import Dpo
    from whet.train.preference.objective import PreferenceObjective
    from whet.train.streaming import keep_in_main_memory
    from whet.train.trainer import WhetTrainer

    class Timed(PreferenceObjective):
        """Knows how long the reference took that is computed ahead."""

        seconds = 0.0

        def prepare(self, forward: Any, dataset: Any, load: Any, way: Any) -> None:
            if not forward.has_adapters:  # a first pass compiles and chooses kernels, as warm-up steps do
                with torch.no_grad():
                    forward.logprobs(load([dataset[item] for item in way.groups[0]]))
            began = now()
            super().prepare(forward, dataset, load, way)
            self.seconds += now() - began

    model = model_of(options)
    streamed = options.variant == "streamed"
    if streamed:
        model = model.cpu()
    if options.kind == "lora":
        model = add_lora(model, rank=RANK, alpha=RANK, seed=3407)
    if streamed:
        keep_in_main_memory(model, torch.device(options.device))
    documents = [
        Encoded([*prompt, *answer], ((len(prompt), len(prompt) + len(answer)),))
        for prompt, chosen, rejected in pairs_of(setting, model.config.vocab_size)
        for answer in (chosen, rejected)
    ]
    rows = AnswerRows(prepare(documents, setting.tokens), 2)
    collate = CollateAnswers(0)
    goal = "fastest" if streamed else options.variant
    wish = Wish(goal, parse_size(options.max_memory) if options.max_memory else None)
    trainer = WhetTrainer(
        model=model, args=arguments(TrainingArguments, setting, options), train_dataset=AnswerDataset(rows),
        collate=collate, tokenizer=None, callbacks=[watch], wish=wish, objective=Timed(Dpo(BETA)),
    )  # fmt: skip
    collate.flat = trainer.engine is not None
    return trainer


def trl_trainer(setting: Setting, options: argparse.Namespace, watch: Stopwatch) -> Any:
    """TRL's ``DPOTrainer`` as its users call it; only its text path is left out: the rows are tokens already."""
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from trl import DPOConfig, DPOTrainer

    model = model_of(options)
    reference = model_of(options) if options.kind == "full" else None
    more: dict[str, Any] = {"beta": BETA, "max_length": setting.tokens, "use_liger_kernel": options.variant != "plain"}
    more |= {"gradient_checkpointing": options.variant != "keep", "precompute_ref_log_probs": False}
    args = arguments(DPOConfig, setting, options, **more)
    words = {word: number for number, word in enumerate(("<pad>", "<end>", "a", "b", "c"))}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")), pad_token="<pad>", eos_token="<end>"
    )
    pairs = pairs_of(setting, model.config.vocab_size)
    adapters = {}
    if options.kind == "lora":
        adapters["peft_config"] = LoraConfig(
            r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
        )
    trainer = DPOTrainer(
        model=model, ref_model=reference, args=args, processing_class=tokenizer, callbacks=[watch],
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * len(pairs)), **adapters,
    )  # fmt: skip
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    trainer.train_dataset = Dataset.from_list([dict(zip(names, pair, strict=True)) for pair in pairs])
    return trainer


def measure(trainer: Any, setting: Setting, watch: Stopwatch, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and what came of it."""
    gc.collect()
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    trainer.train()
    seconds = [round(end - start, 5) for start, end in pairwise(watch.ends)]
    ahead = getattr(getattr(trainer, "objective", None), "seconds", 0.0)
    logged = [line for line in trainer.state.log_history if "loss" in line]
    peaks = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if cuda else (0, 0)
    found: dict[str, Any] = {
        "step_s": seconds, "reference_s_a_pair": round(ahead / (setting.pairs * setting.steps), 5),
        "before_gib": round(before / GIB, 3), "peak_alloc_gib": round(peaks[0] / GIB, 3),
        "peak_reserved_gib": round(peaks[1] / GIB, 3), "losses": [line["loss"] for line in logged],
        "margins": [line.get("rewards/margins") for line in logged],
        "attention": str(trainer.model.config._attn_implementation), "forward": str(getattr(trainer, "forward", "")),
    }  # fmt: skip
    memory = getattr(trainer, "memory", None)
    if hasattr(memory, "facts"):
        found["memory"] = memory.facts()
        found["prompts_shared"] = bool(trainer.train_dataset.share)
    else:
        found["options"] = {
            name: getattr(trainer.args, name, None)
            for name in ("gradient_checkpointing", "use_liger_kernel", "padding_free", "bf16")
        }
    steps = seconds[setting.warmup :]
    if steps:
        step = statistics.median(steps) + found["reference_s_a_pair"] * setting.pairs
        found |= {"median_step_s": round(step, 5), "pairs_s": round(setting.pairs / step, 4)}
    return found


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--who", choices=("whet", "trl"), required=True)
    parser.add_argument("--kind", choices=("lora", "full"), required=True)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen3b")
    parser.add_argument("--vocab", default="0", help="sizes of the vocabulary instead of the shape's, with +")
    parser.add_argument("--variants", required=True, help="see above")
    parser.add_argument("--max-memory", default="", help="whet's plan keeps within it, as 8GiB")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds; no step begins after them")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    deadline, code = time.time() + options.budget, 0
    asked = (text.split("+") for text in (options.vocab, options.variants, options.settings))
    for vocab, options.variant, label in product(*asked):
        setting, options.vocab = parse_setting(label), int(vocab)
        found: dict[str, Any] = {"error": "no time left"}
        if time.time() < deadline:
            watch = Stopwatch(deadline)
            try:
                trainer = (whet_trainer if options.who == "whet" else trl_trainer)(setting, options, watch)
                found = measure(trainer, setting, watch, options)
            except Exception as error:  # any trainer may fail in any way; the other settings go on
                traceback.print_exc()
                found, code = {"error": f"{type(error).__name__}: {error}"[:600], "step_s": []}, 3
            trainer = None
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
        facts = {
            "variant": options.variant,
            "setting": label,
            "pairs_a_step": setting.pairs,
            "row_tokens": setting.tokens,
        }
        facts |= {"vocab": options.vocab or SHAPES[options.shape]["vocab_size"], "versions": versions()}
        with options.out.open("a") as out:
            out.write(json.dumps(facts | found) + "\n")
        print(json.dumps(facts | found), flush=True)
    sys.stdout.flush()
    os._exit(code)  # without exit handlers of libraries, which can hang


if __name__ == "__main__":
    main()
