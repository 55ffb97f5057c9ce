"""A merged model as a folder of safetensors that transformers, vLLM and others load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from whet.console import staged_folder, write_json_atomic
from whet.errors import ExportError
from whet.export.tensors import TensorSource

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHARD_BYTES = 4 * 2**30  # what one save holds in memory
TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
]


def write_merged(
    source: TensorSource,
    out_dir: Path | str,
    dtype: str = "bfloat16",
    tokenizer_dir: Path | str | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write weights, config, tokenizer and generation settings; the folder appears when all of it is there.

    Args:
        dtype: ``bfloat16``, ``float16`` or ``float32``.
        tokenizer_dir: where the tokenizer's files are copied from; None copies none.
        shard_bytes: the largest file of weights, in bytes.

    Raises:
        ExportError: an unknown dtype, or weights that cannot be read.
        OutputError: the disk is full or the place not writable.
    """
    if dtype not in DTYPES:
        raise ExportError(f"no dtype {dtype!r}", f"one of {', '.join(DTYPES)}")
    with staged_folder(out_dir) as stage:
        _write_weights(source, stage, DTYPES[dtype], shard_bytes)
        config = {key: value for key, value in source.config.items() if key != "torch_dtype"} | {"dtype": dtype}
        write_json_atomic(stage / "config.json", config)
        if tokenizer_dir is not None:
            copy_tokenizer(Path(tokenizer_dir), stage)
        _write_generation_config(source.folder, stage)
    return Path(out_dir)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files that make up a tokenizer, as many as there are."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _write_weights(source: TensorSource, folder: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    shards = list(_shards(source, dtype, shard_bytes))
    index: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, start=1):
        many = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = "model.safetensors" if len(shards) == 1 else many
        tensors = {name: source.get(name).to(dtype).contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        listing = {"metadata": {"total_size": total}, "weight_map": index}
        write_json_atomic(folder / "model.safetensors.index.json", listing)


def _shards(source: TensorSource, dtype: torch.dtype, limit: int) -> Iterator[list[str]]:
    """Names of weights, cut into groups of at most ``limit`` bytes (a larger weight stands alone)."""
    names: list[str] = []
    held = 0
    for name in source.names():
        size = torch.Size(source.shape(name)).numel() * dtype.itemsize
        if names and held + size > limit:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _write_generation_config(base: Path, folder: Path) -> None:
    """The base's generation settings, with the trained end token among those that end an answer."""
    file = base / "generation_config.json"
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    eos = _eos_id(folder)
    known = settings.get("eos_token_id")
    ends = known if isinstance(known, list) else [] if known is None else [known]
    if eos is not None and eos not in ends:
        ends = [eos, *ends]
        settings["eos_token_id"] = ends if len(ends) > 1 else eos
    if settings:
        write_json_atomic(folder / "generation_config.json", settings)


def _eos_id(folder: Path) -> int | None:
    settings_file, core_file = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not (settings_file.is_file() and core_file.is_file()):
        return None
    eos = json.loads(settings_file.read_text(encoding="utf-8")).get("eos_token")
    text = eos["content"] if isinstance(eos, dict) else eos
    core = json.loads(core_file.read_text(encoding="utf-8"))
    added = {entry["content"]: entry["id"] for entry in core.get("added_tokens") or []}
    return added.get(text, core["model"]["vocab"].get(text))
