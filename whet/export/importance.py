"""An importance matrix: how strongly each input column of each matrix is used by the user's own texts.

The file is llama.cpp's GGUF imatrix (``tools/imatrix``): for a tensor NAME, ``NAME.in_sum2`` holds the sums of squared
inputs and ``NAME.counts`` how many rows they come from; llama.cpp's own tools read it, and theirs is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from whet.console import output_errors
from whet.errors import ExportError

SUM, COUNT = ".in_sum2", ".counts"
FILE = "model.imatrix.gguf"
TYPE, DATASETS, CHUNKS, CHUNK_SIZE = "imatrix", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


@dataclass(frozen=True)
class Importance:
    """Mean squared input of every column, by the tensor's name in GGUF.

    Args:
        dataset: where the texts came from, for the record.
        chunks: how many texts were read, of at most ``chunk_size`` tokens each.
        rows: how many inputs (tokens) each mean is taken over.
    """

    columns: Mapping[str, torch.Tensor]
    dataset: str
    chunks: int
    chunk_size: int
    rows: int

    def of(self, name: str) -> torch.Tensor | None:
        return self.columns.get(name)

    def add_metadata(self, writer: gguf.GGUFWriter) -> None:
        """The keys that llama.cpp's quantiser writes (tools/quantize)."""
        writer.add_string("quantize.imatrix.file", FILE)
        writer.add_string("quantize.imatrix.dataset", self.dataset)
        writer.add_uint32("quantize.imatrix.entries_count", len(self.columns))
        writer.add_uint32("quantize.imatrix.chunks_count", self.chunks)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise :class:`ExportError` where this is the matrix of another model."""
        for name, column in self.columns.items():
            if name in shapes and shapes[name][-1] != column.numel():
                raise ExportError(
                    f"the importance matrix has {column.numel()} columns for {name}, the model {shapes[name][-1]}",
                    "the matrix of this model",
                )
        if not any(name in shapes for name in self.columns):
            raise ExportError("the importance matrix names no tensor of this model", "the matrix of this model")


def write_importance(importance: Importance, path: Path | str) -> Path:
    """Write the file in llama.cpp's format."""
    target = Path(path)
    with output_errors(target):
        writer = gguf.GGUFWriter(target, "")
        try:
            writer.add_type(TYPE)
            writer.add_array(DATASETS, [importance.dataset])
            writer.add_uint32(CHUNKS, importance.chunks)
            writer.add_uint32(CHUNK_SIZE, importance.chunk_size)
            for name, column in importance.columns.items():
                sums = (column.double() * importance.rows).float().numpy()
                writer.add_tensor(name + SUM, sums[None])
                writer.add_tensor(name + COUNT, np.full((1, 1), importance.rows, dtype=np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return target


def read_importance(path: Path | str) -> Importance:
    """Read a file that whet or llama.cpp wrote.

    Raises:
        ExportError: another kind of file, or sums that are no numbers.
    """
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read {path}: {error}", "an importance matrix in GGUF", "check the path") from error
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    columns, rows = {}, 0
    for name, sums in tensors.items():
        base = name.removesuffix(SUM)
        counts = tensors.get(base + COUNT)
        if name == base or counts is None or counts.size != 1:
            continue  # counts; or one row for each expert of a mixture, which no family here has
        rows = int(counts.reshape(-1)[0])
        column = torch.from_numpy(np.array(sums, dtype=np.float32).reshape(-1)) / max(rows, 1)
        if not torch.isfinite(column).all():
            raise ExportError(f"{path} holds numbers for {base} that are not finite", "a sound importance matrix")
        columns[base] = column
    if not columns:
        raise ExportError(f"{path} holds no importance matrix", "a file that whet or llama.cpp's llama-imatrix wrote")
    datasets = _value(reader, DATASETS, [])
    dataset = datasets[0] if datasets else Path(path).name
    return Importance(columns, str(dataset), int(_value(reader, CHUNKS, 0)), int(_value(reader, CHUNK_SIZE, 0)), rows)


def _value(reader: gguf.GGUFReader, key: str, missing: Any) -> Any:
    field = reader.get_field(key)
    return missing if field is None else field.contents()
