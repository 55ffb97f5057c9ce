"""``whet verify`` on a real run: rows, table, verdict beside the file, exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whet import api
from whet.cli import main
from whet.export.gguf import write_gguf
from whet.export.tensors import CheckpointSource
from whet.llamacpp import available

pytestmark = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")


@pytest.fixture(scope="module")
def run(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{a} and {b}?"},
                {"role": "assistant", "content": f"It is {a + b}."},
            ]
        }
        for a in range(5)
        for b in range(4)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "c.yml").write_text(
        f"base_model: {tiny_llama_dir}\ndatasets:\n  - path: {folder / 'rows.jsonl'}\nadapter: lora\nlora_r: 4\n"
        f"sequence_len: 128\nmax_steps: 2\nval_set_size: 4\nsave_steps: 1\noutput_dir: {folder / 'run'}\n"
    )
    return api.train(folder / "c.yml")


def test_a_right_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.export(run, quants=["f16"], proof=False)
    file = run / "gguf/model.f16.gguf"
    assert main.run(["verify", str(file), "--against", str(run), "--positions", "12"]) == 0
    shown = capsys.readouterr().out
    assert "passed" in shown and "the run's validation rows" in shown
    written = json.loads(Path(f"{file}.verify.json").read_text())
    assert written["passed"] is True and written["positions"] == 12
    assert 0 < written["perplexity_positions"] <= 6
    assert abs(written["perplexity_delta"]) < 0.01


def test_rows_of_a_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--against", str(run), "--data", str(run.parent / "rows.jsonl"), "--positions", "8"]
    api.export(run, quants=["f32"], out=run / "f32", proof=False)
    assert main.run(["verify", str(run / "f32/model.f32.gguf"), *arguments]) == 0
    assert "rows.jsonl" in capsys.readouterr().out


def test_another_model(run: Path, tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The base with larger weights in one layer: the end is an error with what is wrong, and exit code 1."""
    source = CheckpointSource(tiny_llama_dir)
    right = source.get
    source.get = lambda name: 3 * right(name) if "down_proj" in name else right(name)  # type: ignore[method-assign]
    file = write_gguf(source, run / "adapter", run / "other.gguf", "f16", name="m")
    assert main.run(["verify", str(file), "--against", str(run), "--positions", "8"]) == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out and "is not the trained model" in captured.err
    assert json.loads(Path(f"{file}.verify.json").read_text())["passed"] is False


def test_a_checkpoint_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints/checkpoint-1"
    out = str(run / "earlier")
    assert main.run(["export", str(checkpoint), "--to", "merged", "--dtype", "float32", "--out", out]) == 0
    assert "passed" in capsys.readouterr().out
    assert main.run(["verify", out, "--against", str(checkpoint), "--positions", "8"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.gguf", "--against", "starter"], "no file or folder nothing.gguf"),
        (["x"], "--against"),
        (["x", "--against", "no/such/folder/here"], "no folder"),
    ],
)
def test_bad_input(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["verify", *arguments]) == 2
    assert words in capsys.readouterr().err
