"""A peer's part of ``engine_h200.py``: Unsloth, or TRL with PEFT, in a process of its own, several settings.

The peer's own trainer runs; the time is taken between the ends of optimizer steps, with the GPU idle. Documents come
into batches in one of two ways:

* ``packed``: ``packing=True``, rows of the setting's length. TRL's best-fit packing and its padding-free batches (one
  row of all tokens); Unsloth keeps documents apart, with one attention call for each run of documents of one length.
* ``grouped``: padded batches, documents of like length together (``group_by_length``).

``--varlen`` gives Unsloth's packed rows FlashAttention-2 with cu_seqlens, in Unsloth's own function for it, which it
uses from torch 2.12 on; without it torch 2.11 gets the single calls.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import math
import os
import sys
import time
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine_h200_rows import Setting, parse_settings, texts_of

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "unsloth", "unsloth_zoo", "bitsandbytes", "accelerate",
            "triton", "xformers", "flash_attn")  # fmt: skip
GIB = 2**30
GROUPED = (44, 2)  # documents of a batch, batches of a step: 88 documents are about 8 x 2,048 tokens


def give_varlen() -> None:
    """See the module: torch has no ``enable_gqa`` before 2.12, which Unsloth asks for; its own function needs none."""
    import unsloth.utils.attention_dispatch as dispatch

    dispatch._TORCH_VARLEN_ATTN = dispatch._LeanFlashVarlen.apply
    dispatch._LEAN_VARLEN = True
    dispatch._varlen_can_use_cudnn = lambda *_: False


def load(options: argparse.Namespace, longest: int) -> tuple[Any, Any, Any]:
    """Model, tokenizer, and PEFT's configuration where the trainer is to add the adapters."""
    import torch

    if options.backend == "unsloth":
        from unsloth import FastLanguageModel

        model, tokenizer = FastLanguageModel.from_pretrained(
            options.model, max_seq_length=longest, dtype=None, load_in_4bit=options.four_bit,
            load_in_16bit=not options.four_bit,
        )  # fmt: skip
        model = FastLanguageModel.get_peft_model(
            model, r=16, target_modules=TARGETS, lora_alpha=16, lora_dropout=0, bias="none",
            use_gradient_checkpointing="unsloth", random_state=3407,
        )  # fmt: skip
        return model, tokenizer, None
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    more: dict[str, Any] = {}
    if options.four_bit:
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )  # fmt: skip
    place = {"": 0} if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, device_map=place, attn_implementation="sdpa", **more
    )
    lora = peft.LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, bias="none", target_modules=TARGETS,
                           task_type="CAUSAL_LM")  # fmt: skip
    return model, AutoTokenizer.from_pretrained(options.model), lora


def stopwatch(deadline: float) -> Any:
    """Ends of optimizer steps; after the deadline the training stops at the next one."""
    import torch
    from transformers import TrainerCallback

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    class Stopwatch(TrainerCallback):
        ends: list[float]

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.ends = [now()]

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ends.append(now())
            control.should_training_stop = control.should_training_stop or time.time() > deadline

    return Stopwatch()


def count_tokens(collator: Any) -> list[int]:
    """A list that gets the tokens of each micro-batch, padding not counted."""
    inner, counts = collator.torch_call, []

    def counted(examples: Any) -> Any:
        batch = inner(examples)
        mask = batch.get("attention_mask")
        counts.append(int(mask.sum()) if mask is not None else batch["input_ids"].numel())
        return batch

    collator.torch_call = counted
    return counts


def trainer_of(options: argparse.Namespace, setting: Setting, model: Any, tokenizer: Any, lora: Any, timer: Any) -> Any:
    """The peer's trainer. ``trl.SFTTrainer`` is looked up late: importing unsloth replaces it."""
    import datasets
    import peft
    import torch
    import trl

    cuda = torch.cuda.is_available()
    batch, accum, more = setting.batch, setting.accum, {}
    if setting.documents and options.documents == "packed":
        more["packing"] = True
    elif setting.documents:
        batch, accum, more = *GROUPED, {"train_sampling_strategy": "group_by_length", "padding_free": False}
    if options.backend != "unsloth":
        more["gradient_checkpointing"] = True
    config = trl.SFTConfig(
        per_device_train_batch_size=batch, gradient_accumulation_steps=accum, max_steps=setting.steps,
        max_length=setting.seq, dataset_text_field="text", optim="adamw_8bit" if cuda else "adamw_torch",
        logging_steps=1, save_strategy="no", report_to="none", bf16=cuda, use_cpu=not cuda, warmup_steps=2,
        learning_rate=2e-4, weight_decay=0.01, lr_scheduler_type="linear", seed=3407, output_dir="peer_out",
        disable_tqdm=True, **more,
    )  # fmt: skip
    rows = datasets.Dataset.from_dict({"text": texts_of(setting, options.model, tokenizer)})
    if len(rows) < batch * accum * setting.steps and not more.get("packing"):
        raise ValueError(f"{len(rows)} documents: too few for {setting.steps} steps of {batch * accum}")
    adapters = {"peft_config": lora} if lora is not None and not isinstance(model, peft.PeftModel) else {}
    return trl.SFTTrainer(
        model=model, args=config, train_dataset=rows, processing_class=tokenizer, callbacks=[timer], **adapters
    )


def measure(setting: Setting, trainer: Any, timer: Any) -> dict[str, Any]:
    """Train, and what came of it."""
    import torch

    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    counts = count_tokens(trainer.data_collator)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    seconds = [round(end - start, 5) for start, end in pairwise(timer.ends)]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    accum = trainer.args.gradient_accumulation_steps
    tokens = [sum(counts[step * accum : (step + 1) * accum]) for step in range(len(seconds))]
    return {
        "step_s": seconds,
        "tokens": tokens,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "finite": all(math.isfinite(float(loss)) for loss in losses),
        **peaks(),
        **facts_of(setting, trainer, lengths),
    }


def facts_of(setting: Setting, trainer: Any, lengths: list[int]) -> dict[str, Any]:
    """How the peer made its batches and what it ran."""
    args = trainer.args
    shown = sorted(set(lengths))
    found = {
        "rows": len(lengths),
        "row_lengths": shown if len(shown) < 5 else [shown[0], shown[-1]],
        "rows_a_batch": args.per_device_train_batch_size,
        "batches_a_step": args.gradient_accumulation_steps,
        "packing": bool(getattr(args, "packing", False)),
        "padding_free": bool(getattr(args, "padding_free", False) or getattr(trainer, "padding_free", False)),
        "sampling": str(getattr(args, "train_sampling_strategy", "")),
        "optim": str(getattr(args.optim, "value", args.optim)),
        "trainer_class": f"{type(trainer).__module__}.{type(trainer).__name__}",
        "attention": str(getattr(trainer.model.config, "_attn_implementation", None)),
    }
    dispatch = sys.modules.get("unsloth.utils.attention_dispatch")
    if dispatch is not None:
        found |= {name: bool(getattr(dispatch, name)) for name in ("HAS_FLASH_ATTENTION", "HAS_XFORMERS")}
        found["varlen_kernel"] = dispatch._TORCH_VARLEN_ATTN is not None
    return found


def peaks() -> dict[str, float]:
    """The highest since the last reset, in GiB."""
    import torch

    if not torch.cuda.is_available():
        return {"peak_alloc_gib": 0.0, "peak_reserved_gib": 0.0}
    both = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak_alloc_gib": round(both[0] / GIB, 3), "peak_reserved_gib": round(both[1] / GIB, 3)}


def drop(trainer: Any) -> None:
    """Free what the last setting's trainer holds, without the model."""
    import torch

    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("unsloth", "hf"), required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--four-bit", action="store_true")
    parser.add_argument("--documents", choices=("packed", "grouped"), default="packed")
    parser.add_argument("--varlen", action="store_true")
    parser.add_argument("--settings", required=True)
    parser.add_argument("--budget", type=float, default=1e9, help="seconds; no step begins after them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() when the process was started")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.backend == "unsloth":
        import unsloth  # noqa: F401  # before the libraries that it changes
    import peft  # noqa: F401
    import trl  # noqa: F401

    if options.varlen:
        give_varlen()
    imported = time.time()
    settings = parse_settings(options.settings)
    model, tokenizer, lora = load(options, max(setting.seq for setting in settings))
    facts = {
        "policy": "own",
        "import_s": round(imported - options.started, 1),
        "load_s": round(time.time() - imported, 1),
        "versions": versions(),
    }
    code = 0
    for setting in settings:
        if time.time() > options.started + options.budget:
            found: dict[str, Any] = {"error": "no time left"}
        else:
            timer = stopwatch(options.started + options.budget)
            try:
                trainer = trainer_of(options, setting, model, tokenizer, lora, timer)
                model = trainer.model
                found = measure(setting, trainer, timer)
                drop(trainer)
            except Exception as error:  # a peer may fail in any way; the other settings go on
                traceback.print_exc()
                found, code = {"error": f"{type(error).__name__}: {error}"[:600]}, 3
        with options.out.open("a") as out:
            out.write(json.dumps({**facts, **setting.facts, **found}) + "\n")
        print(json.dumps({**setting.facts, **found}), flush=True)
    sys.stdout.flush()
    os._exit(code)  # without the peers' threads and exit handlers, which can hang


if __name__ == "__main__":
    main()
