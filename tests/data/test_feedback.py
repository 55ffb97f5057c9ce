"""Votes and thumbs become rows that preference training reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whet.cli import main
from whet.data.feedback import read_feedback
from whet.data.formats import FormatSpec, to_records
from whet.data.records import LabelRecord, PreferenceRecord
from whet.data.sources import read_rows
from whet.errors import DataError


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vote(choice: str, prompt: Any = "q", a: str = "one", b: str = "two") -> dict[str, Any]:
    return {"prompt": prompt, "a": a, "b": b, "vote": choice, "a_is": "base", "b_is": "tuned"}


def test_votes_become_pairs_that_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "q2"}]
    file = write(tmp_path / "votes.jsonl", vote("a"), vote("b", asked), vote("tie", "q3"), vote("a", "q4", "x", "x"))
    out = tmp_path / "pairs.jsonl"
    assert main.run(["pairs", str(file), "--out", str(out)]) == 0
    records = to_records(read_rows(out), FormatSpec()).records
    assert [type(record) for record in records] == [PreferenceRecord, PreferenceRecord]
    first, second = records
    assert isinstance(first, PreferenceRecord) and isinstance(second, PreferenceRecord)
    assert (first.chosen[0]["content"], first.rejected[0]["content"]) == ("one", "two")
    assert second.prompt == asked and second.chosen[0]["content"] == "two"
    said = capsys.readouterr().err
    assert "2 pairs of 4 verdicts" in said and "1 left out: ties" in said and "both answers are the same" in said


def test_the_majority_wins_whichever_side_an_answer_stood_on(tmp_path: Path) -> None:
    file = write(
        tmp_path / "v.jsonl", vote("a"), vote("b", a="two", b="one"), vote("b"), vote("a", "r"), vote("b", "r")
    )
    found = read_feedback([file])
    assert [row["chosen"][0]["content"] for row in found.rows] == ["one"]
    assert found.left_out == {"as many verdicts for as against": 2}


def test_thumbs_make_pairs_where_a_prompt_has_both(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good one"}]
    rows = [
        {"messages": chat, "label": True},
        {"prompt": "q", "completion": "bad one", "thumb": "down"},
        {"prompt": "q", "completion": "worse one", "label": 0},
        {"prompt": "only good", "completion": "x", "thumb": "UP"},
    ]
    found = read_feedback([write(tmp_path / "t.jsonl", *rows)])
    pairs = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found.rows]
    assert pairs == [("good one", "bad one"), ("good one", "worse one")]
    assert found.left_out == {"answers without a counterpart of the other verdict": 1}


def test_kto_takes_every_answer(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", {"prompt": "p", "completion": "x", "thumb": "up"}, vote("b"))
    out = tmp_path / "kto.jsonl"
    assert main.run(["pairs", str(file), "--kto", "--out", str(out)]) == 0
    records = to_records(read_rows(out), FormatSpec()).records
    labels = [(r.completion[0]["content"], r.label) for r in records if isinstance(r, LabelRecord)]
    assert sorted(labels) == [("one", False), ("two", True), ("x", True)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (vote("c"), "row 1: vote is 'c'"),
        ({"prompt": "p", "completion": "x"}, "neither vote nor label nor thumb"),
        ({"prompt": "p", "completion": "x", "label": "maybe"}, "the label is 'maybe'"),
        ({"prompt": 5, "completion": "x", "label": True}, "the prompt is int"),
        ({"prompt": "p", "label": True}, "there is no answer"),
        ({"messages": [{"role": "user", "content": "p"}], "label": True}, "do not end with the assistant"),
        ({"prompt": "p", "completion": "x", "label": True}, "none of the 1 verdicts gives a row(.|\n)*--kto"),
    ],
)
def test_what_is_refused(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_feedback([write(tmp_path / "t.jsonl", row)])


def test_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "v.jsonl", vote("a"))
    before = file.read_text()
    assert main.run(["pairs", str(file), "--out", str(file)]) == 2
    assert file.read_text() == before and "is one of the files" in capsys.readouterr().err
    out = tmp_path / "pairs.jsonl"
    assert main.run(["pairs", str(write(tmp_path / "w.jsonl", vote("tie"))), "--out", str(out)]) == 2
    assert not out.exists()
