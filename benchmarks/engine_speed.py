"""The engine's speed and memory on one GPU: a random model of a real shape, whole optimizer steps.

    python benchmarks/engine_speed.py [--shape 8b|1b] [--layers N] [--rows 8] [--length 2048] [--steps 6]
        [--variants none,mlp,full,plain] [--check]

``plain`` is the model's own forward with PEFT (gradient checkpointing), in the same process. ``--check`` first compares
loss and gradients of the engine with the plain model's on a few layers.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from record import record, spread
from transformers import LlamaConfig, LlamaForCausalLM

from whet.engine.forward import Engine
from whet.engine.spec import Unsupported

SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "layers": 32, "heads": (32, 8), "vocab": 128256},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "layers": 16, "heads": (32, 8), "vocab": 128256},
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model_of(shape: dict[str, Any], layers: int, rank: int = 16) -> Any:
    """Random bfloat16 weights with LoRA on all linear layers."""
    heads, kv_heads = shape["heads"]
    config = LlamaConfig(
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=shape["vocab"],
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(before)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS))
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
    return wrapped


def batch_of(rows: int, length: int, vocab: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, vocab, (rows, length), device="cuda")
    positions = torch.arange(length, device="cuda").repeat(rows, 1)
    return {"input_ids": ids, "position_ids": positions, "labels": ids.clone()}


def plain_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    labels = batch["labels"][:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels, reduction="sum")


def check(shape: dict[str, Any]) -> dict[str, float]:
    """Largest and median relative difference of gradients between the engine and the plain model, four layers."""
    model = model_of(shape, 4)
    batch = batch_of(2, 512, shape["vocab"])
    plain = plain_loss(model, batch)
    plain.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    found: dict[str, float] = {}
    engine = Engine.attach(model)
    assert not isinstance(engine, Unsupported), engine
    for policy in ("none", "mlp", "full"):
        model.zero_grad()
        engine.policies = [policy] * 4
        loss = engine.loss_sum(**{f"{name}_BS": value for name, value in batch.items()})
        loss.backward()
        errors = [
            float((p.grad - wanted[name]).norm() / wanted[name].norm())
            for name, p in model.named_parameters()
            if name in wanted
        ]
        found[f"{policy}_loss"] = float((loss - plain).abs() / plain)
        found[f"{policy}_largest"], found[f"{policy}_median"] = max(errors), sorted(errors)[len(errors) // 2]
    print(json.dumps(found), flush=True)
    return found


def steps_of(run: Any, parameters: list[Any], count: int) -> list[float]:
    """Seconds of whole optimizer steps, the first two left out."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    seconds = []
    for _ in range(count + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds[2:]


def variant(name: str, model: Any, engine: Engine, batch: dict[str, torch.Tensor], steps: int) -> dict[str, Any]:
    tokens = batch["input_ids"].numel()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    if name == "plain":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()

    def run() -> torch.Tensor:
        if name == "plain":
            return plain_loss(model, batch) / tokens
        engine.policies = [name] * len(engine.layers)  # type: ignore[list-item]
        return engine.loss_sum(**{f"{key}_BS": value for key, value in batch.items()}) / tokens

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        seconds = steps_of(run, parameters, steps)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    figures = {
        "tokens_per_second": spread([tokens / value for value in seconds], 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }
    print(name, json.dumps(figures), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="8b", choices=SHAPES)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--variants", default="none,mlp,full")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    result: dict[str, Any] = {"check": check(shape)} if arguments.check else {}
    model = model_of(shape, arguments.layers or shape["layers"])
    engine = Engine.attach(model)
    assert not isinstance(engine, Unsupported), engine
    batch = batch_of(arguments.rows, arguments.length, shape["vocab"])
    for name in arguments.variants.split(","):
        result[name] = variant(name, model, engine, batch, arguments.steps)
    record(f"engine_speed_{arguments.shape}_{arguments.rows}x{arguments.length}", **result)


if __name__ == "__main__":
    main()
