"""``whet eval`` with lm-eval itself, on a task of a file, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from compared_run import train

from whet import api, runtime
from whet.errors import DataError, MissingDependency

NEEDED = pytest.mark.skipif(not runtime.installed("lm_eval"), reason="lm-eval is not installed")
TASK = {
    "task": "colours",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}\n",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{label}}",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"question": f"Item {i}?", "choices": ["red", "no no no"], "label": i % 2} for i in range(8)]
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "colours.yaml").write_text(yaml.safe_dump(TASK))
    return folder / "colours.yaml"


@NEEDED
def test_a_task_of_a_file_before_and_after(tmp_path: Path, task: Path, tiny_llama_dir: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = train(tmp_path, tiny_llama_dir, save_steps=None)
    report = api.evaluate(run, [str(task)], before=True)
    assert report.path == run / "eval" / "colours.json"
    written = json.loads(report.path.read_text())
    assert list(written["models"]) == [tiny_llama_dir.name, "run"] and written["versions"]["lm_eval"]
    samples = [json.loads(line) for line in report.path.with_suffix(".samples.jsonl").read_text().splitlines()]
    for name, figures in written["models"].items():
        mine = [sample["acc"] for sample in samples if sample["model"] == name]
        assert len(mine) == 8 and figures[0]["value"] == pytest.approx(sum(mine) / 8)
        assert figures[0]["metric"] == "acc" and figures[0]["error"] is not None
    value, low, high = report.changes["colours", "acc"]
    values = [figures[0]["value"] for figures in written["models"].values()]
    assert value == pytest.approx(values[1] - values[0]) and low <= value <= high
    again = api.evaluate(run, [str(task)], limit=3)
    assert list(again.figures) == ["run"] and json.loads(again.path.read_text())["samples"]["colours"]["effective"] == 3


@NEEDED
def test_tasks_that_are_not_there(tmp_path: Path, task: Path, tiny_llama_dir: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="no file"):
        api.evaluate("starter", ["nowhere.yaml"], out=tmp_path)
    (task.parent / "colours.jsonl").unlink()
    with pytest.raises(DataError, match="lm-eval"):
        api.evaluate(tiny_llama_dir, [str(task)], out=tmp_path)


@pytest.mark.skipif(runtime.installed("lm_eval"), reason="lm-eval is installed")
def test_without_lm_eval_it_is_said_how_to_get_it(tmp_path: Path):
    with pytest.raises(MissingDependency, match=r"whet\[eval\]"):
        api.evaluate("starter", ["arc_easy"], out=tmp_path)
