"""whet's block encoders beside ggml's: root mean squared error, weighted error, and weights a second.

    python benchmarks/kquants.py

Both run on as many threads as torch has here, ggml's over slices of rows. Errors are of the matrices that gguf's own
dequantiser reads back. ``ratio`` is ours by ggml's: below 1 is closer to the weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from record import record, spread

from whet.export.quants import ENCODERS, encode_blocks
from whet.export.tensors import CheckpointSource
from whet.models.names import starter_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "export"))
from ggml_oracle import ggml_encode

REPEATS = 5
TIMED = (1024, 4096)
Type = gguf.GGMLQuantizationType


def matrices() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    source = CheckpointSource(starter_folder())
    return {
        "normal": 0.02 * torch.randn(512, 4096),
        "student_t_3": 0.02 * torch.distributions.StudentT(3.0).sample((512, 4096)),
        "starter_down_proj": source.get("model.layers.1.mlp.down_proj.weight"),
        "starter_embedding": source.get("model.embed_tokens.weight"),
    }


def error(encoded: np.ndarray, kind: Type, weight: torch.Tensor, importance: torch.Tensor | None) -> float:
    squared = (gguf.quants.dequantize(encoded, kind) - weight.numpy()).astype(np.float64) ** 2
    return float(np.sqrt((squared if importance is None else squared * importance.numpy()).mean()))


def errors(kind: Type, weight: torch.Tensor, importance: torch.Tensor | None) -> dict[str, float]:
    ours = error(encode_blocks(weight, kind, importance).numpy(), kind, weight, importance)
    known = None if importance is None else importance.numpy()
    theirs = error(ggml_encode(weight.numpy(), kind, known), kind, weight, importance)
    return {"whet": float(f"{ours:.6g}"), "ggml": float(f"{theirs:.6g}"), "ratio": round(ours / theirs, 5)}


def seconds(run: Callable[[], Any]) -> list[float]:
    run()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return taken


def speeds(kind: Type) -> dict[str, Any]:
    """Millions of weights a second."""
    weight = 0.02 * torch.randn(TIMED, generator=torch.Generator().manual_seed(2))
    slices = list(weight.numpy().reshape(torch.get_num_threads() * 4, -1, TIMED[1]))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        theirs = seconds(lambda: list(pool.map(lambda rows: ggml_encode(rows, kind), slices)))
    ours = seconds(lambda: encode_blocks(weight, kind))
    rates = {"whet": ours, "ggml": theirs}
    return {name: spread([weight.numel() / one / 1e6 for one in taken], 1) for name, taken in rates.items()}


def main() -> None:
    table: dict[str, Any] = {}
    for kind in ENCODERS:
        rows: dict[str, Any] = {}
        for name, weight in matrices().items():
            importance = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(5)).exp().square()
            rows[name] = {"rmse": errors(kind, weight, None), "weighted": errors(kind, weight, importance)}
        table[kind.name] = {"errors": rows, "million_weights_per_second": speeds(kind)}
        rates = table[kind.name]["million_weights_per_second"]
        print(
            kind.name, {name: row["rmse"]["ratio"] for name, row in rows.items()}, rates["whet"]["median"], flush=True
        )
    record("kquants", threads=torch.get_num_threads(), timed_shape=list(TIMED), formats=table)


if __name__ == "__main__":
    main()
