"""The published tutorials as scripts, run to the end in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

STEPS = "4"


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


def test_chatbot(shared: Path, tmp_path: Path) -> None:
    printed = _run(shared / "acceptance" / "tutorial_chatbot_ollama.py", tmp_path)
    folder = tmp_path / "llama_finetune"
    quants = ("q8_0", "f16", "q4_k_m")
    assert all((folder / f"model.{quant}.gguf").stat().st_size > 6_000_000 for quant in quants)
    assert all(json.loads((folder / f"model.{q}.gguf.verify.json").read_text())["tokens_identical"] for q in quants)
    modelfile = (folder / "Modelfile").read_text(encoding="utf-8")
    assert modelfile in printed
    once = (
        "Below are some instructions that describe some tasks. "
        "Write responses that appropriately complete each request."
    )
    template = modelfile.partition('TEMPLATE """')[2].partition('"""')[0]
    assert template.startswith(once + "{{ range") and modelfile.count(once) == 1  # the preamble is not repeated
    assert "\n\n### Instruction:\n{{ .Content }}" in template
    assert template.count("\n\n### Response:\n") == 2  # before an answer, and at the end of a prompt
    assert "im_start" not in modelfile and "temperature" not in modelfile
    assert [line for line in modelfile.splitlines() if line.startswith("PARAMETER")] == [
        "PARAMETER num_ctx 2048",
        "PARAMETER stop <|im_end|>",
    ]
