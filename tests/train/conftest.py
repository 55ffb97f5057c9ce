"""A small real run that the tests of training share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import STEPS, question

from whet import api


@pytest.fixture
def apart() -> Iterator[None]:
    """A deterministic run: micro-batches go through one by one, whatever memory there is."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 rows of prompt and completion."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [question(a, b) for a in range(7) for b in range(2, 6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def write_config(tiny_llama_dir: Path, rows_file: Path) -> Callable[..., Path]:
    """``write_config(folder, key=value, ...)`` writes ``folder/c.yml``: a short LoRA run of the tiny model."""

    def write(folder: Path, **changes: Any) -> Path:
        keys = {
            "base_model": str(tiny_llama_dir),
            "datasets": [{"path": str(rows_file)}],
            "adapter": "lora",
            "lora_r": 4,
            "sequence_len": 128,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "output_dir": str(folder / "run"),
        }
        path = folder / "c.yml"
        path.write_text(yaml.safe_dump({**keys, **changes}))
        return path

    return write


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory: pytest.TempPathFactory, write_config: Callable[..., Path]) -> Path:
    """A finished run folder: 6 steps, checkpoints at 2, 4 and 6, validation at 3 and 6. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("lora")
    return api.train(write_config(folder, save_steps=2, eval_steps=3, val_set_size=5, logging_steps=2))
