"""``whet export`` shows each file with its verdict, and its exit code is the verdict. Only the writing is replaced."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import whet
from whet.cli import main
from whet.export.folder import Exported
from whet.export.verify import Verdict


def verdict(passed: bool) -> Verdict:
    return Verdict("q8_0", True, True, 1.5e-4, 1e-3, 0.992, 0.02, 64, 8, passed, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "options", "code", "shown"),
    [
        ([verdict(True)], [], 0, "passed"),
        ([verdict(True), verdict(False)], [], 1, "FAILED"),
        ([verdict(True), None], [], 3, "unproved"),
        ([None, verdict(False)], [], 1, "FAILED"),
        ([None], ["--no-proof"], 0, "not asked for"),
    ],
)
def test_table_and_exit_code(
    verdicts: list[Verdict | None],
    options: list[str],
    code: int,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[dict[str, Any]] = []

    def export(path: Path, **arguments: Any) -> list[tuple[Exported, Verdict | None]]:
        calls.append({"path": path, **arguments})
        return [(Exported("q8_0", tmp_path / "m.gguf", tmp_path / "Modelfile", 12_000_000), v) for v in verdicts]

    api = ModuleType("whet.api")
    api.export = export  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "whet.api", api)
    monkeypatch.setattr(whet, "api", api, raising=False)
    assert main.run(["export", "run", "--quant", "f16, q8_0", "--system", "be brief", *options]) == code
    captured = capsys.readouterr()
    assert "m.gguf" in captured.out and "12.0" in captured.out and shown in captured.out
    assert ("pip install 'whet[serve]'" in captured.err) == (code == 3)
    proof = "--no-proof" not in options
    expected = {"path": Path("run"), "to": "gguf", "quants": ["f16", "q8_0"], "out": None, "system": "be brief"}
    assert calls == [{**expected, "proof": proof}]
