"""Does the exported file do the task as well as the trained model? The quickstart's run: adapter against GGUF.

    python benchmarks/export_accuracy.py [RUN]

Without RUN the quickstart is trained first. All held-out questions are answered at temperature 0 by the adapter in
torch (the run's own summary) and by each GGUF in llama.cpp; an answer is right when its SQL gives the rows of
the gold query.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import record

from whet.console import Progress
from whet.evaluate.tasks.sql import execution_match, wilson_interval
from whet.export.run import export_run
from whet.llamacpp import LlamaServer
from whet.sample import database_path, heldout_rows
from whet.sample.quickstart import MAX_NEW_TOKENS, run

QUANTS = ["q8_0", "q4_k_m"]
POINTS = 2.0  # the exported file may lose at most so many percentage points


def accuracy(gguf: Path) -> dict[str, Any]:
    """Share of the held-out questions that the file answers rightly."""
    rows = heldout_rows()
    right = 0
    with LlamaServer(gguf, n_ctx=512) as server, Progress(f"answering with {gguf.name}", len(rows), "questions") as bar:
        for row in rows:
            answer = server.chat([{"role": "user", "content": row.question}], max_tokens=MAX_NEW_TOKENS)
            right += execution_match(database_path(), row.sql, answer)
            bar.advance()
    return {"accuracy": right / len(rows), "interval": list(wilson_interval(right, len(rows))), "questions": len(rows)}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "run"
        if len(sys.argv) < 2:
            run(folder)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        adapter = summary["accuracy_after"]
        report = export_run(folder, Path(scratch) / "files", QUANTS)
        files: dict[str, Any] = {}
        for file in report.files:
            found = accuracy(file.path)
            lost = 100 * (adapter - found["accuracy"])
            verdict = file.verdict
            proof = None if verdict is None else {"kl_mean": verdict.kl_mean, "passed": verdict.passed}
            files[file.quant] = found | {"points_lost": lost, "within": lost <= POINTS, "proof": proof}
    record("export_accuracy", adapter={"accuracy": adapter, "questions": summary["n_eval"]}, points=POINTS, files=files)


if __name__ == "__main__":
    main()
