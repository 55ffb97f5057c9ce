"""Notices, metrics, progress without a terminal, and writes that leave nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from whet import console
from whet.errors import OutputError


def test_a_notice_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    console.forget_notices()
    for _ in range(3):
        console.notice("rows were dropped", key="drop")
        console.warn("rows were dropped", key="drop")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["note: rows were dropped", "warning: rows were dropped"]


def test_metrics_are_json_lines_and_nan_is_null(tmp_path: Path) -> None:
    log = console.MetricsLog(tmp_path / "run" / "metrics.jsonl")
    log.write(step=1, loss=float("nan"))
    log.write(step=2, loss=0.5, parts=[float("inf"), 1.0])
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert rows == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5, "parts": [None, 1.0]}]


def test_progress_without_a_terminal_prints_few_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.Progress("training", 10, "step") as bar:
        for _ in range(10):
            bar.advance(loss=1.2341, **{"tok/s": 2310.4})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 10
    assert re.fullmatch(r"training: 10/10 step  loss=1.234  tok/s=2,310  \d+s spent", lines[-1])
    assert lines[0].endswith("left")


def test_table_prints_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["sql", "rows"], [["SELECT [name] FROM t", 1200], ["[bold]x[/bold]", 2]], title="samples")
    out = capsys.readouterr().out
    assert "SELECT [name] FROM t" in out and "[bold]x[/bold]" in out and "1,200" in out


def test_write_text_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    console.write_json_atomic(target, {"a": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        console.write_text_atomic(target, "half a file, then \ud800")
    assert json.loads(target.read_text()) == {"a": None}
    assert os.listdir(tmp_path) == ["summary.json"]


def test_staged_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), console.staged_folder(tmp_path / "out") as folder:
        (folder / "half.bin").write_text("x")
        raise ValueError("stop")
    assert os.listdir(tmp_path) == []
    with console.staged_folder(tmp_path / "out") as folder:
        (folder / "a.bin").write_text("1")
    assert os.listdir(tmp_path) == ["out"]


def test_staged_folder_keeps_other_files_unless_told_to_replace(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "mine.txt").write_text("keep")
    (out / "sub" / "old").write_text("old")
    with console.staged_folder(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "new").write_text("new")
    assert sorted(p.name for p in out.rglob("*")) == ["mine.txt", "new", "sub"]
    with console.staged_folder(out, replace=True) as folder:
        (folder / "only").write_text("1")
    assert os.listdir(out) == ["only"]
    assert os.listdir(tmp_path) == ["out"]


def test_staged_folder_for_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.txt").write_text("keep")
    monkeypatch.chdir(here)
    with console.staged_folder(".") as folder:
        (folder / "a").write_text("1")
    assert sorted(os.listdir(here)) == ["a", "mine.txt"]


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"), console.staged_folder(tmp_path / "file"):
        pass
    with pytest.raises(OutputError, match="in the way"):
        console.write_text_atomic(tmp_path / "file" / "below.txt", "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_output_error() -> None:
    with pytest.raises(OutputError, match="the disk is full"):
        console.MetricsLog("/dev/full").write(step=1)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_place_without_permission(code: int) -> None:
    with pytest.raises(OutputError, match="not allowed to write /some/place"), console.output_errors("/some/place"):
        raise OSError(code, os.strerror(code), "/some/place/x")


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), console.output_errors("x"):
        raise KeyError("unrelated")


def test_wrapped_disk_full_is_recognised() -> None:
    error = console.as_output_error(RuntimeError("I/O error: No space left on device (os error 28)"), "model")
    assert error is not None and "model" in str(error)


@pytest.mark.parametrize(("seconds", "text"), [(8.2, "8s"), (185, "3m05s"), (7800, "2h10m")])
def test_seconds(seconds: float, text: str) -> None:
    assert console.format_seconds(seconds) == text
