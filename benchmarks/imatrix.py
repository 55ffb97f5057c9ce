"""What an importance matrix is worth: the starter with one from the sample task's training rows, and without.

    python benchmarks/imatrix.py

KL(transformers || llama.cpp) in nats a token over 64 positions of whet's probes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from record import record

import whet.sample
from whet.export.run import export_run
from whet.models.names import STARTER

TRAINING_ROWS = Path(whet.sample.__file__).parent / "data" / "train.jsonl"
QUANTS = ("q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k")


def conversations(file: Path) -> Path:
    """The sample task's training rows as messages."""
    rows = [json.loads(line) for line in TRAINING_ROWS.read_text(encoding="utf-8").splitlines()]
    with file.open("w", encoding="utf-8") as opened:
        for row in rows:
            asked, answered = {"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["sql"]}
            opened.write(json.dumps({"messages": [asked, answered]}) + "\n")
    return file


def measure(out: Path, imatrix: Path | None) -> dict[str, dict[str, float | int]]:
    files = export_run(STARTER, out, QUANTS, imatrix=imatrix).files
    judged = {file.quant: file.verdict for file in files if file.verdict is not None}
    return {
        quant: {"kl_mean": found.kl_mean, "kl_p99": found.kl_p99, "top1": found.top1_agreement, "at": found.positions}
        for quant, found in judged.items()
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plain = measure(folder / "plain", None)
        weighted = measure(folder / "weighted", conversations(folder / "rows.jsonl"))
    record("imatrix", model="starter", plain=plain, weighted=weighted)


if __name__ == "__main__":
    main()
