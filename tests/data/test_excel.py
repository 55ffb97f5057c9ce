"""Excel workbooks: sheets, kinds of cells, damaged files."""

from __future__ import annotations

import datetime
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from source_files import all_rows, read, refused, write

from whet.data.stream import open_rows
from whet.errors import MissingDependency

openpyxl = pytest.importorskip("openpyxl")


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_values_keep_their_kinds(tmp_path: Path) -> None:
    day, moment = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 13, 5)
    file = workbook(
        tmp_path / "a.xlsx",
        rows=[
            ["name", "age", "fare", "ok", "day", "moment", "time"],
            ["王芳 \n007", 22, 7.25, True, day, moment, datetime.time(8, 30)],
            [None, None, None, None, None, None, None],
            ["007", None, 71.0, False, None, None, None],
        ],
    )
    first, second = read(file)
    assert first == {
        "name": "王芳 \n007",
        "age": 22,
        "fare": 7.25,
        "ok": True,
        "day": "2024-02-29",
        "moment": "2024-02-29T13:05:00",
        "time": "08:30:00",
    }
    assert type(first["age"]) is int and second["name"] == "007" and second["age"] is None


def test_a_sheet_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = workbook(tmp_path / "a.xlsx", train=[["a"], [1]], held=[["a"], [2]])
    assert read(file) == [{"a": 1}]
    assert 'reads the sheet "train" of train, held' in capsys.readouterr().err
    assert read(file, name="held") == [{"a": 2}]
    assert 'did you mean "held"?' in refused(file, name="heldout")


def test_the_header(tmp_path: Path) -> None:
    file = workbook(tmp_path / "a.xlsx", s=[[], ["a", None, "a", 2024, None], [1, 2, 3, 4], [5]])
    assert read(file) == [
        {"a": 1, "Unnamed: 1": 2, "a.1": 3, "2024": 4},
        {"a": 5, "Unnamed: 1": None, "a.1": None, "2024": None},
    ]


def test_a_cell_without_a_column(tmp_path: Path) -> None:
    file = workbook(tmp_path / "a.xlsx", s=[["a"], [1], [2, "note"], [3]])
    assert f"{file}:3: a cell stands right" in refused(file)
    stream = open_rows(file, damaged="skip")
    assert [row["a"] for row in all_rows(stream)] == [1, 3] and stream.damaged_count == 1


def test_results_of_formulas_and_escapes(tmp_path: Path) -> None:
    file = workbook(tmp_path / "a.xlsx", s=[["a", "b"], ["#N/A", "x_x000D_\ny"], ["=1+1", "_xyz"]])
    assert read(file) == [{"a": None, "b": "x\ny"}, {"a": None, "b": "_xyz"}]


def test_a_size_that_the_file_claims_wrongly(tmp_path: Path) -> None:
    file = workbook(tmp_path / "a.xlsx", s=[["a", "b"], *([i, i] for i in range(30))])
    changed = tmp_path / "b.xlsx"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for item in old.infolist():
            new.writestr(item, old.read(item).replace(b'<dimension ref="A1:B31"', b'<dimension ref="A1:A1"'))
    assert len(read(changed)) == 30 and read(changed)[-1] == {"a": 29, "b": 29}


def test_many_rows_and_their_progress(tmp_path: Path) -> None:
    stream = open_rows(workbook(tmp_path / "a.xlsx", s=[["a"], *([i] for i in range(2500))]))
    batches = list(stream.batches())
    assert [len(batch.rows) for batch in batches] == [1000, 1000, 500]
    assert batches[-1].done == stream.size == (tmp_path / "a.xlsx").stat().st_size


def test_no_workbook(tmp_path: Path) -> None:
    assert "no Excel workbook" in refused(write(tmp_path / "a.xlsx", "hello"))
    with zipfile.ZipFile(tmp_path / "b.xlsx", "w") as archive:
        archive.writestr("x.txt", "hello")
    assert "no Excel workbook" in refused(tmp_path / "b.xlsx")
    assert "holds no rows" in refused(workbook(tmp_path / "c.xlsx", s=[["a", "b"]]))
    assert "holds no rows" in refused(workbook(tmp_path / "d.xlsx", s=[[]]))


def test_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workbook(tmp_path / "a.xlsx", s=[["a"], [1]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingDependency, match=r"pip install 'whet\[excel\]'"):
        read(file)
