"""``whet export``: each file with its verdict, and an exit code that is the verdict."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import whet
from whet.cli import main
from whet.errors import Unproved
from whet.export.run import ExportReport, ProvedFile
from whet.export.verdict import THRESHOLDS, Verdict

UNPROVED = Unproved("llama.cpp is not installed", fix="pip install 'whet[serve]'")


def file(passed: bool | None) -> ProvedFile:
    """A written file that was compared (or, with None, not compared)."""
    verdict = Verdict("q8_0", True, True, True, 1.5e-4, 1e-3, 0.992, 0.02, 64, 8, bool(passed), THRESHOLDS["q8_0"])
    return ProvedFile("q8_0", Path("m.gguf"), Path("Modelfile"), 12_000_000, None if passed is None else verdict)


def test_a_real_export(tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gguf"
    assert main.run(["export", str(tiny_llama_dir), "--quant", "f16, q8_0", "--out", str(out), "--no-proof"]) == 0
    shown = capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert {"Modelfile", "Modelfile.f16", "Modelfile.q8_0"} <= names
    assert len([name for name in names if name.endswith(".gguf")]) == 2
    assert all(str(path) in shown for path in out.glob("*.gguf"))


def test_how_many_positions_are_compared(
    tiny_llama_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp")
    command = ["export", str(tiny_llama_dir), "--quant", "f16", "--out", str(tmp_path), "--positions", "6"]
    assert main.run(command) == 0
    verdict = json.loads((tmp_path / "model.f16.gguf.verify.json").read_text())
    assert verdict["positions"] == 6 and verdict["passed"]


@pytest.mark.parametrize(
    ("report", "options", "code", "shown"),
    [
        (ExportReport([file(True)]), [], 0, "passed"),
        (ExportReport([file(True), file(False)]), [], 1, "FAILED"),
        (ExportReport([file(None)], UNPROVED), [], 3, "unproved"),
        (ExportReport([file(None)]), ["--no-proof"], 0, "not asked for"),
    ],
)
def test_table_and_exit_code(
    report: ExportReport,
    options: list[str],
    code: int,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The writing is replaced, so that every verdict can be had."""
    calls: list[dict[str, Any]] = []

    def export(path: str, **arguments: Any) -> ExportReport:
        calls.append({"path": path, **arguments})
        return report

    api = ModuleType("whet.api")
    api.export = export  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "whet.api", api)
    monkeypatch.setattr(whet, "api", api, raising=False)
    assert main.run(["export", "run", "--quant", "f16, q8_0", "--system", "be brief", *options]) == code
    captured = capsys.readouterr()
    assert "m.gguf" in captured.out and "12.0" in captured.out and shown in captured.out
    assert ("pip install 'whet[serve]'" in captured.err) == (code == 3)
    expected = {"path": "run", "to": "gguf", "quants": ["f16", "q8_0"], "out": None, "system": "be brief"}
    expected |= {
        "license": None,
        "parameters": [],
        "imatrix": None,
        "base": None,
        "dtype": "bfloat16",
        "positions": None,
    }
    assert calls == [{**expected, "proof": "--no-proof" not in options}]
