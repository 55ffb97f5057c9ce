"""Do engine and plain PEFT learn the same? 200 steps of SFT on the same batches, the loss of every step side by side.

    python benchmarks/engine_same_loss.py [--models starter,1b] [--storages bfloat16,nf4] [--steps 200] [--rows 8]
        [--length 512]

The sample task's questions and answers through whet's own data path: packed rows of several documents, labels on the
answers. A step is ``rows`` rows of ``length`` tokens; the rate rises over 20 steps and falls to 0, gradients are
clipped to a norm of 1, the optimizer is whet's, for every run alike. LoRA (r = 16, alpha = 32, all linear layers,
float32) on the starter, and on random weights of Llama-3.2-1B's shape.

The runs: ``plain`` is transformers + PEFT under bfloat16 autocast; ``engine``; ``seed`` is plain with adapters from
another seed; ``float32`` is transformers + PEFT on the same stored weights, computed in float32 (no TF32, which cuts
mantissas off): what the 16-bit runs are two roundings of. PEFT adds the adapter's output to a base output that is
rounded already, so an update below half a unit in the last place is lost there; the engine rounds once, after the
sum. So plain lags behind float32 while adapters are small, and the differences are given between all three. The bars,
per step: 1e-3 on average, 5e-3 at most.

NF4 is bitsandbytes' (double quantisation), which a GPU needs. Results of several calls stand side by side in
results/engine_same_loss.json (on a CPU: engine_same_loss_cpu.json).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, record
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, get_linear_schedule_with_warmup

from whet import runtime
from whet.config import parse_config
from whet.data.loader import PackedDataset, collate
from whet.data.run_rows import prepare_rows
from whet.data.sampler import SeededSampler
from whet.engine.forward import Engine
from whet.engine.spec import Unsupported
from whet.models.adapters import add_lora
from whet.models.load import load_model
from whet.sample import train_rows
from whet.train.base import tokenizer_for
from whet.train.flat import FlatAdapters
from whet.train.optim import FlatAdamW

RANK, ALPHA, WARMUP, CLIP, SEED, OTHER_SEED = 16, 32, 20, 1.0, 3407, 3408
MEAN_BAR, STEP_BAR = 1e-3, 5e-3
ENDS = 10  # steps whose mean is the first and the last loss
RATES = {"starter": 1e-3, "1b": 2e-4}
RUNS = ("plain", "engine", "seed", "float32")  # the last one changes the base model
PAIRS = (("engine", "plain"), ("engine", "float32"), ("plain", "float32"), ("seed", "plain"))
SHAPE_1B: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "attn_implementation": "sdpa",
}
Batch = dict[str, torch.Tensor]


def batches(steps: int, rows: int, length: int) -> list[Batch]:
    """The batches of all steps on the device, in a trainer's order: epoch after epoch, each shuffled by its seed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        asked = (
            ({"role": "user", "content": r.question}, {"role": "assistant", "content": r.sql}) for r in train_rows()
        )
        path.write_text("".join(json.dumps({"messages": pair}) + "\n" for pair in asked), encoding="utf-8")
        text = f"base_model: starter\ndatasets:\n  - path: {json.dumps(str(path))}\n    type: chat_template\n"
        config = parse_config(text, name="same_loss.yml")
        tokenizer = tokenizer_for(config)
        packed = PackedDataset(prepare_rows(config, tokenizer, length).train, length)
    order = _order(len(packed), rows)
    chosen = [[packed[next(order)] for _ in range(rows)] for _ in range(steps)]
    here = runtime.device()
    made = [collate(items, pad_id=tokenizer.pad_token_id or 0) for items in chosen]
    names = ("input_ids", "labels", "position_ids")
    return [{name: batch[name].to(here) for name in names} for batch in made]


def _order(size: int, rows: int) -> Iterator[int]:
    """Row numbers without end; what is left of an epoch after its last whole batch is dropped."""
    sampler, epoch = SeededSampler(size, SEED), 0
    while True:
        sampler.set_epoch(epoch)
        yield from sampler.order()[: size // rows * rows].tolist()
        epoch += 1


def base_model(name: str, storage: str) -> Any:
    """The starter or random weights of the 1B shape, frozen, in ``storage``, on the device."""
    here = runtime.device()
    dtype = torch.float32 if storage == "float32" else torch.bfloat16
    if name == "starter":
        model = load_model("starter", dtype=dtype)[0].to(dtype)
    else:
        torch.manual_seed(0)
        with here:
            model = LlamaForCausalLM(LlamaConfig(**SHAPE_1B)).to(dtype)
    if storage == "nf4":
        four_bit(model)
    return model.requires_grad_(False).train()


def four_bit(model: Any) -> None:
    """The decoder's linear layers as transformers loads them with BitsAndBytesConfig, without a checkpoint on disk."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for layer in model.model.layers:
        linears = [(path, part) for path, part in layer.named_modules() if isinstance(part, torch.nn.Linear)]
        for path, part in linears:
            packed = Linear4bit(
                part.in_features, part.out_features, bias=False, compute_dtype=torch.bfloat16, device="meta"
            )
            where = part.weight.device
            weight = Params4bit(part.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
            packed.weight = weight.to(where)
            packed.quant_state = packed.weight.quant_state
            layer.set_submodule(path, packed)
    model.is_loaded_in_4bit = True  # PEFT chooses its layer by this


def widened(model: Any) -> Any:
    """The same weights in float32, four-bit ones too."""
    if getattr(model, "is_loaded_in_4bit", False):
        from bitsandbytes.functional import dequantize_4bit

        model.is_loaded_in_4bit = False
        for layer in model.model.layers:
            packed = [(path, part) for path, part in layer.named_modules() if hasattr(part, "quant_state")]
            for path, part in packed:
                dense = torch.nn.Linear(part.in_features, part.out_features, bias=False, device="meta")
                values = dequantize_4bit(part.weight.data, part.weight.quant_state)
                dense.weight = torch.nn.Parameter(values, requires_grad=False)
                layer.set_submodule(path, dense)
    return model.float()


def plain_sum(model: Any, batch: Batch, storage: str) -> torch.Tensor:
    """Sum of the cross-entropy by the model's own forward, its logits in float32."""
    ids = batch["input_ids"]
    mixed = nullcontext() if storage == "float32" else torch.autocast(ids.device.type, torch.bfloat16)
    with mixed:
        logits = model(input_ids=ids, position_ids=batch["position_ids"], use_cache=False).logits
    return cross_entropy(logits[:, :-1].float().flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


def train(model: Any, work: list[Batch], rate: float, storage: str, engine: Engine | None) -> list[float]:
    """The loss of every step, nats a trained token."""
    flat = FlatAdapters([parameter for parameter in model.parameters() if parameter.requires_grad])
    optimizer = FlatAdamW(flat, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, len(work))
    optimizer.zero_grad()
    losses = []
    for batch in work:
        count = (batch["labels"][:, 1:] != -100).sum()
        if engine is None:
            total = plain_sum(model, batch, storage)
        else:
            total = engine.loss_sum(**{f"{name}_BS": value for name, value in batch.items()})
        loss = total / count
        loss.backward()
        flat.clip_(CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return [round(float(loss), 7) for loss in losses]


def one_run(base: Any, work: list[Batch], name: str, storage: str, kind: str) -> tuple[Any, list[float], float]:
    """The base model again, the losses, the seconds."""
    if kind == "float32":
        base, storage = widened(base), "float32"
        torch.set_float32_matmul_precision("highest")
    model = add_lora(base, rank=RANK, alpha=ALPHA, seed=OTHER_SEED if kind == "seed" else SEED)
    engine = Engine.attach(model) if kind == "engine" else None
    if isinstance(engine, Unsupported):
        raise SystemExit(f"the engine does not take this model: {engine.reason}")
    began = time.perf_counter()
    losses = train(model, work, RATES[name], storage, engine)
    seconds = time.perf_counter() - began
    if engine is not None:
        engine.release()
    return model.unload(), losses, seconds


def compared(losses: dict[str, list[float]]) -> dict[str, Any]:
    """Differences per step, and whether they keep the bars."""
    found: dict[str, Any] = {}
    for name, values in losses.items():
        ends = (values[:ENDS], values[-ENDS:])
        found[name] = {key: round(sum(v) / len(v), 5) for key, v in zip(("first_loss", "last_loss"), ends, strict=True)}
    for one, other in PAIRS:
        if one in losses and other in losses:
            gap = torch.tensor(losses[one], dtype=torch.float64) - torch.tensor(losses[other], dtype=torch.float64)
            mean, largest = float(gap.abs().mean()), float(gap.abs().max())
            found[f"{one} - {other}"] = {
                "mean_difference": round(mean, 7),
                "largest_difference": round(largest, 7),
                "largest_at_step": int(gap.abs().argmax()) + 1,
                "mean_signed": round(float(gap.mean()), 7),
                "steps_above_bar": int((gap.abs() > STEP_BAR).sum()),
                "within_bars": mean <= MEAN_BAR and largest <= STEP_BAR,
            }
    return found


def case(name: str, storage: str, work: list[Batch], runs: list[str]) -> dict[str, Any]:
    """The runs of one model in one storage."""
    base, losses, seconds = base_model(name, storage), {}, {}
    for kind in [kind for kind in runs if kind != storage]:
        base, losses[kind], seconds[kind] = one_run(base, work, name, storage, kind)
        ends = f"{losses[kind][0]:.4f} -> {losses[kind][-1]:.4f}"
        print(f"{name} {storage} {kind}: {ends}, {seconds[kind]:.1f} s", flush=True)
    found = compared(losses)
    print(json.dumps(found, indent=1), flush=True)
    rounded = {kind: round(value, 1) for kind, value in seconds.items()}
    return {"rate": RATES[name], "differences": found, "seconds": rounded, "losses": losses}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = runtime.device().type == "cuda"
    parser.add_argument("--models", default="starter,1b" if cuda else "starter")
    parser.add_argument("--storages", default="bfloat16,nf4" if cuda else "float32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--runs", default=",".join(RUNS), help="which runs, in this order")
    parser.add_argument("--rate", type=float, help="of every model; unset: its own")
    parser.add_argument("--dry", action="store_true", help="print the figures, write no result")
    asked = parser.parse_args()
    if asked.rate:
        RATES.update(dict.fromkeys(RATES, asked.rate))
    work = batches(asked.steps, asked.rows, asked.length)
    name = "engine_same_loss" if cuda else "engine_same_loss_cpu"
    before = json.loads((RESULTS / f"{name}.json").read_text()) if (RESULTS / f"{name}.json").exists() else {}
    cases = {} if asked.dry else before.get("cases", {})
    settings = {"steps": asked.steps, "rows": asked.rows, "length": asked.length, "warmup": WARMUP, "clip": CLIP}
    settings["trained_tokens_a_step"] = round(float(sum((b["labels"] != -100).sum() for b in work)) / len(work), 1)
    print(settings, flush=True)
    for model in asked.models.split(","):
        for storage in asked.storages.split(","):
            title = f"{model} {storage}" + (f" rate {asked.rate:g}" if asked.rate else "")
            cases[title] = {**settings, **case(model, storage, work, asked.runs.split(","))}
            if not asked.dry:
                record(name, bars={"mean": MEAN_BAR, "step": STEP_BAR}, cases=cases)
    found = [one["differences"].get("engine - plain") for one in cases.values()]
    return 0 if all(one is None or one["within_bars"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
