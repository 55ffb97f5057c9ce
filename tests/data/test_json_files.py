"""JSON lines, JSON lists in pieces, and what else is named .json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import all_rows, read, refused, write

from whet.data import lines
from whet.data.stream import open_rows


def test_values_of_different_kinds_are_fine(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": 1}, {"a": "x"}, {"a": [1, {"b": None}]}, {"a": True}, {"a": 2.5}]
    assert read(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))) == rows


def test_a_row_that_lacks_a_column_and_one_with_more(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"b": 1, "a": 2}] * 1500 + [{"a": 3}, {"c": 4}]
    stream = open_rows(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert stream.columns == ["b", "a"]
    assert all_rows(stream)[-2:] == [{"b": None, "a": 3}, {"b": None, "a": None, "c": 4}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": ', "the line is damaged: Expecting value at character 6"),
        ('{"a": 1} {"a": 2}', "more text after the value, at character 9"),
        ('{"a": 1},', "more text after the value, at character 9"),
        ('{"a": "tab\there"}', "Invalid control character"),
        ("[1]", "the line is no JSON object"),
        ("null", "the line is no JSON object"),
        ("text", "the line is damaged"),
        ('{"a": "\0"}', "a NUL byte"),
        ('{"a": "\\ud83d"}', "half of a surrogate pair"),
        ('{"a": "\\uDE00\\ud83d"}', "half of a surrogate pair"),
        ('{"a": ' + "[" * 100_000, "nested too deep"),
        ('{"a": ' + "1" * 5000 + "}", "the line is damaged"),
    ],
)
def test_a_damaged_line(tmp_path: Path, line: str, words: str) -> None:
    good = [{"a": f"é {i} \\ud83d"} for i in range(3)] + [{"a": "😀"}]
    text = "\n".join(json.dumps(row) for row in good[:2]) + f"\n\r\n{line}\r\n" + "\n".join(map(json.dumps, good[2:]))
    file = write(tmp_path / "a.jsonl", text)
    assert f"{file}:4: " in refused(file) and words in refused(file) and "damaged: skip" in refused(file)
    stream = open_rows(file, damaged="skip")
    assert all_rows(stream) == good
    assert stream.damaged_count == 1 and words in stream.damaged[0]


def test_a_damaged_line_is_skipped_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", '{"a": 1}\n' + "oops\n" * 50 + '{"a": 2}\n' + b"\xff\n".decode("latin-1"))
    stream = open_rows(file, damaged="skip")
    assert stream.damaged == [] and stream.damaged_count == 0
    for _ in range(2):
        assert all_rows(stream) == [{"a": 1}, {"a": 2}]
        assert stream.damaged_count == 51 and len(stream.damaged) == 20
    said = capsys.readouterr().err
    assert said.count("51 damaged lines were skipped") == 1 and f"{file}:2: the line is damaged" in said


def test_nothing_but_damage(tmp_path: Path) -> None:
    assert "all of its 3 lines are damaged" in refused(write(tmp_path / "a.jsonl", "x\ny\nz\n"), damaged="skip")


LISTS = [
    "[{}]",
    '  [ {"a": 1} ,\n{"a": [1, "]"]}]\n\n',
    '[{"a": "\\u00e9\\ud83d\\ude00"},{"b": "x\\"},{"}]',
    '[{"a": tru' + 'e}, {"n": -1.5e+10}, {"nan": null}]',
]


@pytest.mark.parametrize("text", LISTS)
@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
def test_a_list_in_pieces(tmp_path: Path, text: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK", block)
    whole = json.loads(text)
    file = write(tmp_path / "a.json", text)
    found = read(file)
    assert found == [{**dict.fromkeys(row), **wanted} for row, wanted in zip(found, whole, strict=True)]


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"a": 1},\n\n{"a" 2}]', "a.json:3: damaged JSON: Expecting ':' delimiter"),
        ('[{"a": 1}\n{"a": 2}]', 'a.json:2: damaged JSON: "{" where "," belongs'),
        ('[{"a": 1},\n]', "a.json:2: damaged JSON: Expecting value"),
        ('[{"a": 1},\n{"a": 2}\n', "a.json:3: damaged JSON: the list is not closed"),
        ('[{"a": 1},\n{"a": "never closed}]\n', "a.json:2: damaged JSON: Invalid control character"),
        ('[{"a": 1}]\n[{"a": 2}]', "a.json:2: damaged JSON: text after the end of the list"),
        ('[{"a": 1},\n{"a": "cut', "a.json:2: damaged JSON: Unterminated string"),
        ('[{"a": 1}, 5]', "entry 2 is no JSON object, but a number"),
        ('[{"a": 1}, [2]]', "entry 2 is no JSON object, but a list"),
        ('[{"a": 1}, {"a": "\\udc00"}]', "entry 2: it holds half"),
        ("[", "a.json:1: damaged JSON"),
        ("[ ]", "holds no rows"),
    ],
)
def test_a_damaged_list(tmp_path: Path, text: str, words: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK", block)
    assert words in refused(write(tmp_path / "a.json", text))


def test_bytes_that_do_not_decode_in_a_list(tmp_path: Path) -> None:
    assert "a.json:2: not UTF-8 text" in refused(write(tmp_path / "a.json", b'[{"a": 1},\n{"a": "\xff"}]'))


def test_entries_that_are_no_objects_may_be_skipped(tmp_path: Path) -> None:
    stream = open_rows(write(tmp_path / "a.json", '[1, {"a": 1}, null, {"a": 2}]'), damaged="skip")
    assert all_rows(stream) == [{"a": 1}, {"a": 2}] and stream.damaged_count == 2


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('{"a": 1}\n', [{"a": 1}]),
        ('{\n  "version": 1, "data": [{"a": 1}, {"a": 2}]\n}', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{\n"a": 1\n}\n{\n"a": 2\n}\n', [{"a": 1}, {"a": 2}]),
        ('{"x": [1, 2], "y": [3]}', [{"x": [1, 2], "y": [3]}]),
    ],
)
def test_what_else_is_named_json(tmp_path: Path, text: str, rows: list[dict[str, Any]]) -> None:
    assert read(write(tmp_path / "a.json", text)) == rows


def test_lines_named_json_may_be_damaged(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", '{"a": 1}\noops\n{"a": 2}\n')
    assert "a.json:2: the line is damaged" in refused(file)
    assert len(read(file, damaged="skip")) == 2


def test_json_that_holds_no_rows(tmp_path: Path) -> None:
    assert "holds no rows" in refused(write(tmp_path / "a.json", '"text"'))
    assert "holds no rows" in refused(write(tmp_path / "a.json", '{"data": []}'))


def test_real_lists(shared: Path) -> None:
    for name in ("alpaca/alpaca_en_demo.json", "dpo/sharegpt_dpo.json", "sentiment/dataset.json"):
        file = shared / "data" / name
        assert read(file) == json.loads(file.read_text(encoding="utf-8")), name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES}), min_size=1, max_size=6),
    block=st.sampled_from([1, 5, 64, 1 << 20]),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
def test_what_json_writes_is_read(
    tmp_path: Path, rows: list[dict[str, Any]], block: int, ascii_only: bool, indent: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        text = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
        assert read(write(tmp_path / "a.jsonl", text)) == rows
        assert read(write(tmp_path / "a.json", json.dumps(rows, ensure_ascii=ascii_only, indent=indent))) == rows
