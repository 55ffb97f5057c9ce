"""Rows, processes and figures of the small runs that the tests of training share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from whet.data.loader import PackedDataset, prepare
from whet.data.records import PairRecord
from whet.data.tokens import encode_records

STEPS = 6
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def question(a: int, b: int) -> dict[str, str]:
    """A row whose length depends on its numbers, so that rows, batches and bins are uneven."""
    words = " ".join([*[NUMBERS[a]] * (1 + b % 3), "and", NUMBERS[b]])
    return {"prompt": f"Question: {words}?\nAnswer:\n", "completion": " ".join([str(a + b), *[NUMBERS[b]] * (a % 4)])}


def packed_questions(tokenizer: Any, length: int = 256) -> PackedDataset:
    """48 such rows, in packed rows of at most ``length`` tokens."""
    rows = [question(a, b) for a in range(8) for b in range(6)]
    records = [PairRecord(row["prompt"], row["completion"]) for row in rows]
    return PackedDataset(prepare(encode_records(tokenizer, records), length), length)


def without_engine(model: Any) -> Any:
    """A Llama whose own forward trains its weights: the engine wants all of a group's projections trained, or none."""
    model.model.layers[0].self_attn.q_proj.weight.requires_grad_(False)
    return model


def start(*arguments: object) -> subprocess.Popen[str]:
    """``whet ...`` in a process of its own, with one thread, so that equal runs give equal bits."""
    return subprocess.Popen(
        [sys.executable, "-m", "whet.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
