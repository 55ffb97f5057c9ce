"""The memory plan against measured peaks on one GPU: families, storages, policies, tiles, lengths, labels.

    python benchmarks/engine_plan.py [--check] [--again]

Random models of real shapes, some with fewer layers. Three whole optimizer steps each; the peak is what torch's
allocator had given out at its highest. With --check the exit code is 1 where a prediction is more than 3% too high or
1% too low. --again needs no GPU: the plan as it is now is compared with the peaks that are recorded.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from datetime import date
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from record import RESULTS, record
from transformers import AutoConfig, AutoModelForCausalLM

from whet.console import write_json_atomic
from whet.engine.forward import Engine
from whet.engine.memory import Work, activation_peak, fixed_bytes
from whet.engine.plan import step_seconds
from whet.engine.rates import H200
from whet.engine.read import read_model
from whet.engine.shape import Shape, shape_of_config
from whet.engine.spec import ModelSpec
from whet.models.adapters import quiet_peft
from whet.train.flat import FlatAdapters
from whet.train.memory_plan import shape_of_engine
from whet.train.optim import FlatAdamW
from whet.train.streaming import keep_in_main_memory

GIB = 2**30
LLAMA = {"model_type": "llama", "vocab_size": 128256, "tie_word_embeddings": False}
MODELS: dict[str, dict[str, Any]] = {
    "llama-8b": {
        **LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
    },
    "llama-1b": {
        **LLAMA,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_hidden_layers": 16,
        "tie_word_embeddings": True,
    },
    "qwen2-3b": {
        "model_type": "qwen2",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "num_hidden_layers": 12,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "qwen3-4b": {
        "model_type": "qwen3",
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_hidden_layers": 10,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "gemma3-1b": {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "num_hidden_layers": 12,
        "vocab_size": 262144,
        "tie_word_embeddings": True,
    },
    "phi3-mini": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "num_hidden_layers": 8,
        "vocab_size": 32064,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    },
}


class Setting(NamedTuple):
    """``policies``: runs of (count, policy), or one policy for all; ``labelled``: share of the tokens; ``documents``:
    tokens of each, None: whole rows; ``resident``: NF4 layers with a dense copy."""

    rows: int
    length: int
    policies: str
    labelled: float = 1.0
    tile: int | None = None
    chunk_rows: int = 1024
    documents: tuple[int, ...] | None = None
    resident: int = 0


MIXED = (700, 33, 1, 514, 800)  # of 2,048
CASES: tuple[tuple[str, str, tuple[Setting, ...]], ...] = (
    (
        "llama-8b",
        "nf4",
        (
            Setting(8, 2048, "none"),
            Setting(8, 2048, "mlp"),
            Setting(8, 2048, "full"),
            Setting(8, 2048, "full", tile=4096),
            Setting(8, 2048, "22*full+2*mlp+8*none"),
            Setting(8, 2048, "full", labelled=0.2),
            Setting(8, 2048, "full", documents=MIXED),
            Setting(2, 2048, "none", resident=8),
            Setting(2, 2048, "full", tile=2048, chunk_rows=256),
            Setting(1, 8192, "16*full+16*mlp", labelled=0.3),
            Setting(1, 16384, "full"),
            Setting(1, 16384, "full", tile=4096),
            Setting(1, 32768, "full", tile=4096),
        ),
    ),
    (
        "llama-8b",
        "streamed",
        (
            Setting(1, 2048, "full"),
            Setting(4, 2048, "full"),
            Setting(8, 2048, "full"),
            Setting(8, 2048, "full", tile=4096),
            Setting(8, 2048, "22*full+2*mlp+8*none"),
        ),
    ),
    (
        "llama-1b",
        "dense",
        (
            Setting(8, 2048, "none"),
            Setting(8, 2048, "full"),
            Setting(4, 2048, "8*full+8*none", documents=MIXED),
            Setting(1, 8192, "mlp", labelled=0.5),
        ),
    ),
    ("qwen2-3b", "dense", (Setting(8, 2048, "none"), Setting(8, 2048, "full"), Setting(4, 2048, "mlp", labelled=0.1))),
    ("qwen3-4b", "dense", (Setting(8, 2048, "none"), Setting(8, 2048, "full"), Setting(8, 2048, "mlp", tile=4096))),
    ("gemma3-1b", "dense", (Setting(8, 2048, "none"), Setting(8, 2048, "full"), Setting(8, 2048, "mlp", tile=2048))),
    ("phi3-mini", "dense", (Setting(8, 2048, "none"), Setting(8, 2048, "full"), Setting(8, 2048, "mlp"))),
)


def model_of(name: str, storage: str, device: str) -> Any:
    """Random bfloat16 weights, NF4 ones as bitsandbytes makes them, or such as stay in main memory; with LoRA on all
    linear layers."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**MODELS[name])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    torch.set_default_dtype(before)
    if storage == "nf4":
        for layer in model.model.layers:
            _quantise(layer)
    with quiet_peft():
        wrapped = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if storage == "streamed":
        keep_in_main_memory(wrapped.cpu(), torch.device(device))
    return wrapped


def _quantise(layer: torch.nn.Module) -> None:
    import bitsandbytes as bnb

    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                packed = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, device="meta"
                )
                packed.weight = bnb.nn.Params4bit(
                    child.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                setattr(parent, name, packed.to(child.weight.device))


def batch_of(setting: Setting, vocab: int, device: str) -> dict[str, torch.Tensor]:
    """Random tokens; the last ones of each row are labelled."""
    ids_BS = torch.randint(0, vocab, (setting.rows, setting.length), device=device)
    lengths = setting.documents or (setting.length,)
    one_S = torch.cat([torch.arange(length, device=device) for length in lengths])
    labels_BS = ids_BS.clone()
    labels_BS[:, : round(setting.length * (1 - setting.labelled))] = -100
    labels_BS[:, 0] = -100
    return {"input_ids_BS": ids_BS, "position_ids_BS": one_S.repeat(setting.rows, 1), "labels_BS": labels_BS}


def work_of(setting: Setting) -> Work:
    tokens, lengths = setting.rows * setting.length, setting.documents or (setting.length,)
    first = max(1, round(setting.length * (1 - setting.labelled)))
    squares = float(setting.rows * sum(length**2 for length in lengths))
    return Work(tokens, setting.rows * (setting.length - first), squares, 1, len(set(lengths)) == 1)


def policies_of(text: str, layers: int) -> list[str]:
    runs = [part.split("*") for part in text.split("+")]
    if len(runs[0]) == 1:
        return [text] * layers
    return [policy for count, policy in runs for _ in range(int(count))][:layers]


def predicted(shape: Shape, setting: Setting, policies: list[str]) -> tuple[int, float]:
    """Bytes and seconds."""
    work = work_of(setting)
    peak = sum(fixed_bytes(shape, work.tokens, setting.resident).values())
    peak += activation_peak(shape, work, policies, setting.chunk_rows, setting.tile)
    return peak, step_seconds(shape, work, H200, tuple(policies), setting.resident, setting.tile)


def measured(engine: Engine, flat: FlatAdapters, optimizer: FlatAdamW, batch: dict[str, torch.Tensor]) -> list[float]:
    """Seconds of three steps."""
    seconds = []
    for _ in range(3):
        _wait()
        began = time.perf_counter()
        optimizer.zero_grad()
        engine.loss_sum(**batch).backward()
        flat.clip_(1.0)
        optimizer.step()
        _wait()
        seconds.append(time.perf_counter() - began)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def lines(device: str, tiny: bool) -> Iterator[dict[str, Any]]:
    for name, storage, settings in CASES:
        model = model_of(name, storage, device)
        spec = read_model(model)
        assert isinstance(spec, ModelSpec), spec
        engine = Engine(spec, streamed=storage == "streamed")
        flat = FlatAdapters([p for p in model.parameters() if p.requires_grad])
        optimizer = FlatAdamW(flat, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
        engine.changed()
        shape, layers = shape_of_engine(engine), len(engine.layers)
        for setting in settings:
            if tiny:
                setting = setting._replace(length=setting.length // 64, documents=None)
            policies = policies_of(setting.policies, layers)
            engine.policies, engine.tile, engine.chunk_rows = policies, setting.tile, setting.chunk_rows  # type: ignore[assignment]
            engine.set_resident([number < setting.resident for number in range(layers)])
            yield line(name, storage, setting, shape, policies, engine, flat, optimizer, device)
        engine.release()
        del model, engine, flat, optimizer
        gc.collect()
        torch.cuda.empty_cache()


def line(name: str, storage: str, setting: Setting, shape: Shape, policies: list[str], *run: Any) -> dict[str, Any]:
    *parts, device = run
    batch = batch_of(setting, 2000, device)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = measured(*parts, batch)
    peak, promised = predicted(shape, setting, policies)
    found = {"model": name, "storage": storage, **setting._asdict(), "predicted_gib": round(peak / GIB, 3)}
    found |= {"predicted_s": round(promised, 4), "measured_s": [round(value, 4) for value in seconds]}
    if torch.cuda.is_available():
        actual, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        found |= {"measured_gib": round(actual / GIB, 3), "reserved_gib": round(reserved / GIB, 3)}
        found |= {"error": round(peak / actual - 1, 4), "reserved_factor": round(reserved / actual, 3)}
    print(found, flush=True)
    return found


def again() -> list[dict[str, Any]]:
    """The recorded settings with the predictions of today's plan."""
    path = RESULTS / "engine_plan.json"
    recorded = json.loads(path.read_text())
    for one in recorded["lines"]:
        shape = shape_of_config(MODELS[one["model"]], rank=16, storage=one["storage"])
        assert isinstance(shape, Shape)
        setting = Setting(**{name: one[name] for name in Setting._fields})
        peak, seconds = predicted(shape, setting, policies_of(setting.policies, shape.layers))
        error = round(peak / (one["measured_gib"] * GIB) - 1, 4)
        one |= {"predicted_gib": round(peak / GIB, 3), "predicted_s": round(seconds, 4), "error": error}
    write_json_atomic(path, recorded | summary(recorded["lines"]) | {"predicted_again": date.today().isoformat()})
    return list(recorded["lines"])


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    errors = sorted(one["error"] for one in found)
    return {"settings": len(found), "lowest": errors[0], "highest": errors[-1], "outside": len(outside(found))}


def outside(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Predictions more than 3% too high or 1% too low."""
    return [one for one in found if not -0.01 <= one.get("error", 0.0) <= 0.03]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--again", action="store_true", help="predict the recorded settings again")
    parser.add_argument("--tiny", action="store_true", help="two layers and short rows: a dry run on a CPU")
    options = parser.parse_args()
    if options.tiny:
        small = {
            "num_hidden_layers": 2,
            "hidden_size": 256,
            "intermediate_size": 512,
            "vocab_size": 2048,
            "head_dim": 32,
        }
        for values in MODELS.values():
            values |= {**small, "num_attention_heads": 8, "num_key_value_heads": 4}
    found = again() if options.again else list(lines("cuda" if torch.cuda.is_available() else "cpu", options.tiny))
    if not options.again and torch.cuda.is_available():
        record("engine_plan", **summary(found), lines=found)
    bad = outside(found)
    for one in bad:
        print("outside:", one["model"], one["policies"], one["error"])
    return 1 if bad and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
