from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from comparisons import made

from whet.console import forget_notices
from whet.errors import DataError
from whet.evaluate.answers import Answer, Likelihood
from whet.evaluate.examples import Example
from whet.evaluate.metrics import Said, Wishes, choose
from whet.evaluate.tasks.match import labels_of, normalised_match, pattern_of, regex_match, same_json


def _examples(golds: list[str]) -> list[Example]:
    return [Example(f"q{i}", ({"role": "assistant", "content": gold},)) for i, gold in enumerate(golds)]


def _names(golds: list[str], wishes: Wishes | None = None, source: Path | None = None) -> list[str]:
    return [metric.name for metric in choose(_examples(golds), wishes or Wishes(), source)]


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("  Positive.\n", "positive", True),
        ("ＰＯＳＩＴＩＶＥ", "positive", True),
        ("积极。", "积极", True),
        ("a  b", "a b", True),
        ("STRASSE", "straße", True),
        ("positive!", "negative", False),
        ("", "?", False),
        ("?", "!", False),
        ("?", " ?", True),
        ("3.14", "314", False),
    ],
)
def test_normalised_match(answer: str, gold: str, same: bool):
    assert normalised_match(answer, gold) is same


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ('{"b": 2, "a": [1]}', '{"a":[1.0],"b":2}', True),
        ('```json\n{"a": 1}\n```', '{"a": 1}', True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": 1} and more', '{"a": 1}', False),
        ("[NaN]", "[1]", False),
        ("[" * 100_000, "[1]", False),
        ("", "[]", False),
    ],
)
def test_same_json(answer: str, gold: str, same: bool):
    assert same_json(answer, gold) is same


def test_regex():
    final = pattern_of(r"#### (-?[\d,.]+)")
    assert regex_match(final, "so\n#### 12", "x #### 12")
    assert not regex_match(final, "#### 12 no, #### 13", "#### 12")  # the last one counts
    assert not regex_match(final, "12", "#### 12")
    assert regex_match(pattern_of(r"^\w+$"), "word", None) and not regex_match(pattern_of(r"^\w+$"), "two words", "x")
    with pytest.raises(DataError, match="--regex"):
        pattern_of("(")


def test_labels():
    assert labels_of(["Yes", "no", "yes ", "NO", "yes"]) == ["Yes", "no"]
    assert labels_of(["a", "b", "c", "d"]) is None  # nothing stands twice
    assert labels_of(["same"] * 9) is None
    assert labels_of(["x" * 50, "y"] * 5) is None


def test_what_is_chosen():
    assert _names(["yes", "no"] * 5) == ["label", "perplexity", "exact", "ended", "length"]
    assert _names([f"short {i}" for i in range(9)]) == ["normalised", "perplexity", "exact", "ended", "length"]
    assert _names([f"{i} word " * 80 for i in range(9)]) == ["perplexity", "ended", "length"]
    objects = [json.dumps({"a": i}) for i in range(9)]
    assert _names(objects)[:2] == ["same_json", "json"]
    assert _names(["1", "0"] * 4)[0] == "label"  # numbers are JSON too, and that is not what is meant
    pairs = [Example("q", ({"role": "assistant", "content": "a"},), ({"role": "assistant", "content": "b"},))]
    assert choose(pairs, Wishes())[0].name == "preference"
    assert _names(["yes", "no"] * 5, Wishes(("exact", "json"))) == ["exact", "json"]
    assert _names(["yes", "no"] * 5, Wishes(judge=True))[0] == "judge"
    assert _names(["yes", "no"] * 5, Wishes(regex="y"))[0] == "regex"


def test_what_is_refused():
    for wishes, words in (
        (Wishes(("exakt",)), "exact"),
        (Wishes(("judge",)), "--judge URL"),
        (Wishes(("regex",)), "no --regex"),
        (Wishes(("label",)), "closed set"),
        (Wishes(("same_json",)), "not all"),
        (Wishes(("preference",)), "chosen and rejected"),
        (Wishes(("sql",)), "no database"),
        (Wishes(database=Path("nowhere.db")), "no file"),
    ):
        with pytest.raises(DataError, match=words):
            _names([f"t{i}" for i in range(5)], wishes)


def test_sql_with_a_database_beside_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with closing(sqlite3.connect(tmp_path / "d.sqlite")) as database, database:
        database.execute("CREATE TABLE t (a)")
        database.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
    golds = ["SELECT a FROM t WHERE a = 1", "SELECT count(*) FROM t"]
    metrics = choose(_examples(golds), Wishes(), tmp_path / "rows.jsonl")
    assert metrics[0].name == "sql" and "d.sqlite" in metrics[0].why
    score = metrics[0].score
    assert score is not None
    said = [Said(Answer(text, 1, True)) for text in ("SELECT min(a) FROM t", "SELECT nothing", "DROP TABLE t")]
    assert [score(_examples(golds)[0], each) for each in said] == [1.0, 0.0, 0.0]
    assert "sql" not in _names([*golds, "SELECT b FROM other"], source=tmp_path / "rows.jsonl")
    assert "not all expected answers run" in capsys.readouterr().err
    (tmp_path / "e.db").touch()
    forget_notices()
    assert _names(golds, source=tmp_path / "rows.jsonl")[0] == "normalised"  # two databases: which one?
    assert "--database FILE" in capsys.readouterr().err


def test_preference_and_perplexity_are_by_token():
    rows = [Example("q", ({"role": "assistant", "content": "a"},), ({"role": "assistant", "content": "b"},))]
    metrics = {metric.name: metric for metric in choose(rows, Wishes())}
    answer = Answer("x", 1, False)
    longer = Said(answer, Likelihood(-10.0, 10), Likelihood(-4.0, 2))
    assert metrics["preference"].score(rows[0], longer) == 1.0
    assert metrics["preference"].score(rows[0], Said(answer, Likelihood(-1.0, 1), Likelihood(-1.0, 1))) == 0.0
    assert metrics["preference"].score(rows[0], Said(answer, Likelihood(-1.0, 1))) is None
    assert metrics["perplexity"].score(rows[0], longer) == 1.0
    assert metrics["ended"].score(rows[0], longer) == 0.0


def test_confusion():
    rows = [("a", "red", ["red", "Red."]), ("b", "blue", ["red", "blue"]), ("c", "red", ["a red one", "red"]),
            ("d", "blue", ["blue", "red"])]  # fmt: skip
    found = made(rows)
    labels, counts = found.confusion(0)
    assert labels == ["red", "blue"] and counts.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert found.confusion(1)[1].tolist() == [[2, 0, 0], [1, 1, 0]]
    assert made([("a", "", ["x", "y"])]).confusion(0) is None
