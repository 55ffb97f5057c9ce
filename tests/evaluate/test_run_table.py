from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from compared_run import train

from whet import api
from whet.cli import main
from whet.errors import DataError
from whet.evaluate.run_table import read_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(
        folder, tiny_llama_dir, output_dir=str(folder / "first"), save_steps=None, eval_strategy="steps", eval_steps=4
    )
    train(folder, tiny_llama_dir, output_dir=str(folder / "more" / "second"), save_steps=None, lora_r=8, seed=7)
    return folder


def test_differences_and_figures(runs: Path):
    table = api.runs([runs])
    assert [run.folder.name for run in table.runs] == ["first", "second"]
    differ = table.differences()
    assert differ["lora_r"] == [4, 8] and differ["seed"] == [3407, 7]
    assert set(differ) == {"lora_r", "seed", "eval_strategy", "eval_steps"}  # and not output_dir
    first = table.runs[0]
    manifest = json.loads((first.folder / "manifest.json").read_text())
    assert (first.state, first.steps, first.loss) == ("done", 4, manifest["train_loss"])
    assert first.eval_loss is not None and table.runs[1].eval_loss is None
    assert first.planned and first.peak_bytes == manifest["memory"]["planned_peak_bytes"]
    heads, rows = table.rows()
    assert heads[:2] == ["run", "lora_r"] and "held-out loss" in heads and [row[1] for row in rows] == ["4", "8"]


def test_metrics_of_comparison_and_tasks(runs: Path, capsys: pytest.CaptureFixture[str]):
    first = runs / "first"
    report = api.compare(first)
    (first / "eval").mkdir()
    figures = [{"task": "t", "metric": "acc", "value": 0.25, "error": None}]
    (first / "eval" / "t.json").write_text(json.dumps({"models": {"first": figures}}))
    found = report.comparison.measured(report.comparison.main)
    metrics = read_run(first).metrics
    assert metrics["label accuracy"][0] == found[-1].value.value and metrics["t acc"] == (0.25, "0.25")
    assert main.run(["runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert "label" in said and "lora_r" in said and "second" in said


def test_unfinished_stopped_and_damaged(runs: Path, tmp_path: Path):
    for name in ("killed", "stopped", "damaged"):
        shutil.copytree(runs / "first", tmp_path / name)
    (tmp_path / "killed" / "manifest.json").unlink()
    manifest = json.loads((tmp_path / "stopped" / "manifest.json").read_text())
    (tmp_path / "stopped" / "manifest.json").write_text(json.dumps(manifest | {"interrupted": True}))
    for file in ("manifest.json", "config.yml"):
        (tmp_path / "damaged" / file).write_text('{"a": [')
    with (tmp_path / "damaged" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert [read_run(tmp_path / name).state for name in ("killed", "stopped", "damaged")] == [
        "unfinished", "stopped", "unfinished"]  # fmt: skip
    assert read_run(tmp_path / "killed").steps == 4
    assert len(api.runs([tmp_path, tmp_path / "killed"]).runs) == 3  # a folder that is named twice counts once


def test_no_runs(tmp_path: Path):
    with pytest.raises(DataError, match="no run in"):
        api.runs([tmp_path])
    with pytest.raises(DataError, match="no folder"):
        api.runs([tmp_path / "nowhere"])
