"""A merged model as a folder of safetensors that transformers, vLLM and others load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from whet.console import staged_folder, write_json_atomic
from whet.errors import ExportError
from whet.export.shards import SHARD_BYTES, write_shards
from whet.export.tensors import TensorSource

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
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
        write_shards(source, stage, DTYPES[dtype], shard_bytes)
        write_json_atomic(stage / "config.json", _config(source, dtype))
        if tokenizer_dir is not None:
            copy_tokenizer(Path(tokenizer_dir), stage)
        _write_generation_config(source.folder, stage)
        names = {item.name for item in stage.iterdir()}
    _remove_old_weights(Path(out_dir), names)
    return Path(out_dir)


def _remove_old_weights(folder: Path, written: set[str]) -> None:
    """Shards of an earlier export with another number of files: some readers load every file that they find."""
    for pattern in ("model-*-of-*.safetensors", "model.safetensors", "model.safetensors.index.json"):
        for old in folder.glob(pattern):
            if old.name not in written:
                old.unlink()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files that make up a tokenizer, as many as there are."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _config(source: TensorSource, dtype: str) -> dict[str, Any]:
    """config.json as both transformers 5 and older readers understand it.

    transformers 5 moved the rotary settings into ``rope_parameters`` and renamed ``torch_dtype``. A reader that knows
    only the old keys would take its own default for the rotary base, and the model would talk nonsense.
    """
    config = dict(source.config) | {"dtype": dtype, "torch_dtype": dtype}
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            config.setdefault("rope_scaling", scaling)
    return config


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
