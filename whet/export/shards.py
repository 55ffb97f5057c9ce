"""Safetensors files written tensor by tensor (format: huggingface.co/docs/safetensors, "Format").

The library's own writer needs a whole file in memory; this one holds one tensor.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from whet.console import Progress, write_json_atomic
from whet.errors import ExportError, OutputError
from whet.export.tensors import TensorSource

SHARD_BYTES = 5 * 10**9  # transformers' own limit up to version 4
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNED = 8  # the header ends on this, so that the data can be mapped


def write_shards(source: TensorSource, folder: Path, dtype: torch.dtype, shard_bytes: int = SHARD_BYTES) -> None:
    """Write every weight of ``source`` into ``folder``, with the index that goes with several files.

    Args:
        shard_bytes: the largest file, in bytes; a larger weight stands alone.

    Raises:
        OutputError: not enough room on the disk.
        ExportError: values beyond the range of float16.
    """
    shards = list(_shards(source, dtype, shard_bytes))
    total = sum(_size(source, name, dtype) for names in shards for name in names)
    _check_room(folder, total)
    index: dict[str, str] = {}
    with Progress("writing weights", max(1, total // 10**6), "MB") as progress:
        written = 0
        for number, names in enumerate(shards, start=1):
            file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            for size in _write_file(source, names, folder / file, dtype):
                progress.advance((written + size) // 10**6 - written // 10**6)
                written += size
            index |= dict.fromkeys(names, file)
    if len(shards) > 1:
        write_json_atomic(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index}
        )


def _write_file(source: TensorSource, names: list[str], path: Path, dtype: torch.dtype) -> Iterator[int]:
    """Write one file; yields the bytes of each tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + _size(source, name, dtype)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(source.shape(name)), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = _as(source.get(name), dtype, name)
            file.write(tensor.flatten().view(torch.uint8).numpy().data)
            yield tensor.nbytes


def _as(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    made = tensor.to(dtype).contiguous()
    if dtype is torch.float16 and not bool(made.isfinite().all()):
        raise ExportError(f"{name} has values that float16 cannot hold", "bfloat16", "--dtype bfloat16")
    return made


def _shards(source: TensorSource, dtype: torch.dtype, limit: int) -> Iterator[list[str]]:
    """Names of weights, cut into groups of at most ``limit`` bytes (a larger weight stands alone)."""
    names: list[str] = []
    held = 0
    for name in source.names():
        size = _size(source, name, dtype)
        if names and held + size > limit:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    yield names


def _size(source: TensorSource, name: str, dtype: torch.dtype) -> int:
    return torch.Size(source.shape(name)).numel() * dtype.itemsize


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"the disk is full: the model needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free",
            fix="free some space, or name another --out",
        )
