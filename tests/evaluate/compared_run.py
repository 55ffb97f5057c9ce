"""Small real runs of the tiny model, for tests of comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from whet import api

LABELS = ("red", "green", "blue")


def rows(count: int = 30) -> list[dict[str, str]]:
    """Prompts of different lengths with one of three labels."""
    return [
        {"prompt": f"Item {i}: {'brown fox ' * (i % 4)}?\n", "completion": LABELS[i * i % 7 % 3]} for i in range(count)
    ]


def pairs(count: int = 30) -> list[dict[str, str]]:
    """Prompts with a better and a worse answer."""
    return [
        {"prompt": f"Item {i}?", "chosen": f"yes {LABELS[i % 3]}", "rejected": "no " * (1 + i % 3)}
        for i in range(count)
    ]


def train(folder: Path, model: Path, **changes: Any) -> Path:
    """A run of four steps with checkpoints at 2 and 4, six of its rows held out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    if not path.exists():
        made = pairs() if "rl" in changes else rows()
        path.write_text("".join(json.dumps(row) + "\n" for row in made))
    keys = {
        "base_model": str(model),
        "datasets": [{"path": str(path)}],
        "adapter": "lora",
        "lora_r": 4,
        "sequence_len": 64,
        "micro_batch_size": 4,
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 2e-2,
        "val_set_size": 6,
        "eval_strategy": "no",
        "output_dir": str(folder / "run"),
    }
    (folder / "c.yml").write_text(yaml.safe_dump({**keys, **changes}))
    return api.train(folder / "c.yml")
