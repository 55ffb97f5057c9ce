"""The published tutorials as scripts, run to the end in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STEPS = "10"


def _run(script: Path, folder: Path) -> str:
    variables = {**os.environ, "WHET_STEPS": STEPS, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=variables, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_sentiment(shared: Path, tmp_path: Path) -> None:
    printed = _run(shared / "acceptance" / "tutorial_sentiment.py", tmp_path)
    assert "final loss" in printed
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "sentiment_lora").iterdir()
    }


def test_text_to_sql(shared: Path, tmp_path: Path) -> None:
    _run(shared / "acceptance" / "tutorial_sql_ollama.py", tmp_path)
    modelfile = (tmp_path / "sql_model" / "Modelfile").read_text(encoding="utf-8")
    assert "FROM ./model.q4_k_m.gguf" in modelfile
    assert "Company database: {{ $.System }}" in modelfile
    assert "SQL prompt: {{ .Content }}" in modelfile
    assert (tmp_path / "sql_model" / "model.q4_k_m.gguf").stat().st_size > 6_000_000
