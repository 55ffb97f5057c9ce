"""A model of the 8B shape with random weights, from safetensors on disk to a GGUF: end to end, and each phase alone.

    python benchmarks/export_speed.py [--shape 8b|tiny] [--quants q4_k_m[,q8_0]] [--folder DIR] [--device cuda|cpu]

The checkpoint's pages are dropped from the cache first, so that reading is from the disk. Reading, encoding and writing
overlap in the export, which runs in a process of its own; alone they show which one it waits for. The process's own
memory (not the mapped pages of the checkpoint) is sampled while it writes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gguf
import psutil
import torch
from record import record
from safetensors.torch import save_file

from whet.console import notice
from whet.export.blocks import encode
from whet.export.families import family_of
from whet.export.gguf import plan_tensors, write_ggufs
from whet.export.tensors import CheckpointSource
from whet.models.names import starter_folder

POOL = 2**24 + 3
SHAPES: dict[str, dict[str, int]] = {
    "8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    "tiny": {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
             "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64},
}  # fmt: skip


def make_checkpoint(folder: Path, shape: dict[str, int]) -> int:
    """A Llama in bfloat16, one file for each layer; the number of its weights."""
    from transformers import LlamaConfig

    shutil.copytree(starter_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))
    config = LlamaConfig(**shape, architectures=["LlamaForCausalLM"], eos_token_id=2, bos_token_id=None)
    config.save_pretrained(folder)
    width, wide, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    rows, values = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    matrices = {"self_attn.q_proj": (rows, width), "self_attn.k_proj": (values, width),
                "self_attn.v_proj": (values, width), "self_attn.o_proj": (width, rows), "mlp.gate_proj": (wide, width),
                "mlp.up_proj": (wide, width), "mlp.down_proj": (width, wide)}  # fmt: skip
    norms = {"input_layernorm": (width,), "post_attention_layernorm": (width,)}
    table = (shape["vocab_size"], width)
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    files["ends"] = {"model.embed_tokens": table, "lm_head": table, "model.norm": (width,)}
    for layer in range(shape["num_hidden_layers"]):
        files[f"layer-{layer:03d}"] = {
            f"model.layers.{layer}.{name}": size for name, size in (matrices | norms).items()
        }
    index: dict[str, str] = {}
    count = 0
    generator = torch.Generator().manual_seed(1)
    pool = (0.02 * torch.randn(POOL, generator=generator)).bfloat16()
    for stem, names in files.items():
        tensors = {f"{name}.weight": _random(size, pool, generator) for name, size in names.items()}
        save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, f"{stem}.safetensors")
        count += sum(tensor.numel() for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return count


def _random(size: tuple[int, ...], pool: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Normal numbers out of a pool, from a place of its own: drawing eight billion takes minutes."""
    if len(size) == 1:
        return torch.ones(size).bfloat16()
    count, start = math.prod(size), int(torch.randint(len(pool), (1,), generator=generator))
    return pool.roll(-start).repeat(-(-count // len(pool)))[:count].reshape(size)


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the files' pages."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def phases_alone(folder: Path, out: Path, quant: str, device: torch.device) -> dict[str, float]:
    """Seconds of reading, encoding and writing all tensors, one after the other."""
    source = CheckpointSource(folder)
    plan = plan_tensors(source, family_of(source.config), quant)
    seconds = dict.fromkeys(("read", "encode", "write"), 0.0)
    with (out / "alone").open("wb") as file:
        for tensor in plan:
            started = time.perf_counter()
            weight = tensor.read()
            read = time.perf_counter()
            encoded = encode(weight, tensor.kind, None, device)
            done = time.perf_counter()
            file.write(memoryview(encoded).cast("B"))
            seconds["read"] += read - started
            seconds["encode"] += done - read
            seconds["write"] += time.perf_counter() - done
        started = time.perf_counter()
        file.flush()
        os.fsync(file.fileno())
        seconds["write"] += time.perf_counter() - started
    (out / "alone").unlink()
    return {name: round(value, 2) for name, value in seconds.items()}


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    device = torch.device(options.device)
    folder, out = scratch / "model", scratch / "out"
    weights = make_checkpoint(folder, SHAPES[options.shape])
    out.mkdir()
    notice(f"{weights / 1e9:.2f} billion weights in {folder}")
    quants = options.quants.split(",")
    tiny = torch.randn(1024, 1024)
    encode(tiny, gguf.GGMLQuantizationType.Q4_K, None, device)  # the device's start is not the export's
    drop_from_cache(folder)
    targets = {quant: out / f"{quant}.gguf" for quant in quants}
    child = [sys.executable, __file__, "--child", str(folder), "--quants", options.quants, "--device", options.device]
    export = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])
    whole = export["seconds"]
    sizes = {quant: target.stat().st_size for quant, target in targets.items()}
    for target in targets.values():
        target.unlink()
    drop_from_cache(folder)
    alone = phases_alone(folder, out, quants[0], device)
    return {
        "weights": weights,
        "encoded_on": str(device),
        "threads": torch.get_num_threads(),
        "seconds": round(whole, 2),
        "seconds_with_start": export["seconds_with_start"],
        "own_memory_gib": export["own_memory_gib"],
        "largest_tensor_gib": export["largest_tensor_gib"],
        "weights_per_second": round(weights * len(quants) / whole),
        "file_bytes": sizes,
        f"seconds_alone_{quants[0]}": alone,
    }


def export_alone(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The export, and the most memory of its own that the process held."""
    source, peak, done = CheckpointSource(folder), [0], threading.Event()
    before = own_memory()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], own_memory() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    targets = {quant: folder.parent / "out" / f"{quant}.gguf" for quant in options.quants.split(",")}
    started = time.perf_counter()
    write_ggufs(source, folder, targets, name="speed", device=torch.device(options.device))
    for target in targets.values():
        with target.open("rb") as opened:
            os.fsync(opened.fileno())
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    largest = max(math.prod(source.shape(name)) for name in source.names()) * 4  # in float32
    figures = {"own_memory_gib": peak[0] / 2**30, "largest_tensor_gib": largest / 2**30, "seconds": seconds}
    figures["seconds_with_start"] = time.time() - psutil.Process().create_time()
    return {name: round(value, 2) for name, value in figures.items()}


def own_memory() -> int:
    """Bytes that are no mapped file."""
    fields = psutil.Process().memory_info()
    return int(fields.rss - fields.shared)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", choices=list(SHAPES), default="8b")
    parser.add_argument("--quants", default="q4_k_m")
    parser.add_argument("--folder", default=None, help="where the checkpoint is made; it is removed at the end")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(export_alone(options.child, options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        figures = measure(options, Path(scratch))
    record(f"export_speed_{options.shape}_{options.device.split(':')[0]}", **figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
