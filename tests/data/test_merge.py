"""Columns to questions: the Titanic table as readers load it, and each fault that such merging is known for."""

from __future__ import annotations

import csv
import datetime
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.console import forget_notices
from whet.data.cell_text import cell_text, column_texts
from whet.data.merge import merge_columns, to_sharegpt
from whet.data.merged_prompt import Counts, parse_prompt
from whet.errors import DataError, WhetError

TITANIC = "[[The passenger embarked from {embarked}.]] [[Their age is {age}.]] [[Their fare is ${fare}.]]"


@pytest.fixture(autouse=True)
def every_notice() -> None:
    forget_notices()


def as_pandas(path: Path) -> Any:
    return pd.read_csv(path)


def as_dataset(path: Path) -> Any:
    return datasets.load_dataset("csv", data_files=str(path), split="train")


def as_dtypes_with_gaps(path: Path) -> Any:
    return pd.read_csv(path).convert_dtypes()


def as_dataset_of_pandas(path: Path) -> Any:
    return datasets.Dataset.from_pandas(pd.read_csv(path))


@pytest.mark.parametrize("load", [as_pandas, as_dataset, as_dtypes_with_gaps, as_dataset_of_pandas])
def test_titanic(load: Any, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared / "data" / "titanic" / "titanic.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = [
        ("embarked", "The passenger embarked from {}."),
        ("age", "Their age is {}."),
        ("fare", "Their fare is ${}."),
    ]
    expected = [" ".join(text.format(row[name]) for name, text in parts if row[name]) for row in rows]
    table = load(path)
    result = to_sharegpt(table, TITANIC, output_column_name="survived")
    written = [row[0]["value"] for row in result["conversations"]]
    assert written == expected
    assert len(written) == 891
    for text in written:
        words = text.replace(".", " ").split()
        assert not {"nan", "NaN", "None", "<NA>"} & set(words)
        assert text == text.strip() and "  " not in text and ".0." not in text and not text.endswith(".0")
    assert "Their fare is $8.4583." in written[5] and "age" not in written[5]
    assert [row[1]["value"] for row in result["conversations"]] == [row["survived"] for row in rows]
    counts = merge_columns(table, TITANIC)
    assert counts.left_out == {"Their age is {age}.": 177, "The passenger embarked from {embarked}.": 2}
    said = capsys.readouterr().err
    assert "'Their age is {age}.' is left out in 177 of 891 rows" in said
    assert "'The passenger embarked from {embarked}.' is left out in 2 of 891 rows" in said


def render(prompt: str, **cells: Any) -> str:
    return merge_columns([cells], prompt).texts[0]


A_ROW: dict[str, Any] = {"a": "1", "b": "2", "n": None, "a b": "space", "a.b": "dot", "[x]": "brackets"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{a}", "1"),
        ("{a b}, {a.b}, {[x]}", "space, dot, brackets"),
        ("x[[ {a} {n}]]", "x"),  # any missing column drops the part, not only the first
        ("x[[ {n} {a}]]", "x"),
        ("x[[ {a} {b}]]", "x 1 2"),
        ("[[{n}.]] [[{a}.]] [[{b}.]]", "1. 2."),
        ("[[{a}.]] [[{n}.]] [[{b}.]]", "1. 2."),
        ("[[{a}.]] [[{b}.]] [[{n}.]]", "1. 2."),
        ("[[{n}.]] [[{n}!]] [[{b}.]]", "2."),
        ("  [[{n}.]] {a}", "1"),
        ("[[{n}.]]\n\n\t[[{b}.]]\n", "2.\n"),
        ("{a}[[\nYour input is:\n{n}]]", "1"),
        ("{a}[[\nYour input is:\n{b}]]", "1\nYour input is:\n2"),
        ("The [[old {n} ]]man", "The man"),  # the part's own white space goes with it: the words stay apart
        ("The [[old {n} ]] man", "The man"),
        ("The [[old {n} ]]{a}", "The 1"),
        ("The end[[ of {n} ]]", "The end"),
        ("[[{n}. ]][[{a}. ]][[{b}.]]", "1. 2."),
        ("[[{a}. ]][[{n}. ]][[{b}.]]", "1. 2."),
        ("[[{a} [[and {n} ]]or {b}]]", "1 or 2"),
        ("[[{a}[[, {n}]][[, {b}]]]]", "1, 2"),
        ("[[{n}[[, {b}]]]]x", "x"),
        ("[[Known: [[{n}]] [[{b}]]]]", "Known: 2"),
        ("x [[Known: [[{n}]] [[{n}!]]]]", "x"),  # no column of its own, and nothing in it shows
        ('{{"a": {a}, "l": \\[[1,2\\]]}}', '{"a": 1, "l": [[1,2]]}'),
        ("{{{a}}}", "{1}"),
        ("{{a}}", "{a}"),
        ("[[list[{a}]]]", "list[1]"),
        ("\\\\[[{a}]] \\alpha [0]", "\\1 \\alpha [0]"),
        ("a {n} b", "a  b"),  # outside of an optional part: empty text, and counted
        ("", ""),
    ],
)
def test_the_language(prompt: str, expected: str) -> None:
    assert parse_prompt(prompt, list(A_ROW)).render(A_ROW) == expected


@pytest.mark.parametrize(
    ("prompt", "what", "line", "caret"),
    [
        ("x [[a {a}", "[[ is never closed", "x [[a {a}", 2),
        ("[[{a}]] [[ {b} [[{a}]] ", "[[ is never closed", "[[{a}]] [[ {b} [[{a}]] ", 8),
        ("{a} ]] b", "]] closes nothing", "{a} ]] b", 4),
        ("{a} {b", "{ without }", "{a} {b", 4),
        ("{a {b}", "{ without }", "{a {b}", 0),
        ("one\n{a} } x\nthree", "} without { (line 2)", "{a} } x", 4),
        ("问题 {b} {ab}", 'there is no column "ab"', "问题 {b} {ab}", 9),
        ("see [[1,2]]", "an optional part without a column", "see [[1,2]]", 4),
        ("{}", 'there is no column ""', "{}", 0),
    ],
)
def test_a_fault_is_shown_with_a_caret(prompt: str, what: str, line: str, caret: int) -> None:
    with pytest.raises(DataError) as caught:
        parse_prompt(prompt, list(A_ROW))
    said = str(caught.value).splitlines()
    assert said[:3] == [what, "    " + line, " " * (caret + 4) + "^"]


def test_an_unknown_column_names_the_columns_and_the_nearest() -> None:
    with pytest.raises(DataError) as caught:
        to_sharegpt([{"age": 3, "fare": 2, "output": "x"}], "[[Age {agee}]]")
    assert "one of age, fare, output" in str(caught.value)
    assert "did you mean {age}?" in str(caught.value)
    with pytest.raises(DataError, match=r"(?s)write \{\{ and \}\}") as caught:
        to_sharegpt([{"age": 3, "output": "x"}], '{"city": 1}')
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["merged_column_name", "output_column_name"])
def test_a_missing_column_is_an_error(name: str) -> None:
    with pytest.raises(DataError, match=f'{name}: the rows have no column "outptu"') as caught:
        to_sharegpt([{"instruction": "a", "output": "b"}], **{name: "outptu"})
    assert 'did you mean "output"?' in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None), ("", None), (" \n\t", None), (math.nan, None), (np.float32("nan"), None), (pd.NaT, None),
        (pd.NA, None), (np.datetime64("NaT"), None), (Decimal("NaN"), None), ("nan", "nan"), (" a ", " a "),
        (23.0, "23"), (np.float64(23), "23"), (7.25, "7.25"), (71.2833, "71.2833"), (np.float32(71.2833), "71.2833"),
        (-0.0, "0"), (0.00001, "0.00001"), (1e300, "1e+300"), (123456789012.0, "123456789012"), (-1.5, "-1.5"),
        (23, "23"), (np.int64(23), "23"), (2**70, str(2**70)), (True, "True"), (np.bool_(False), "False"),
        (Decimal("7.50"), "7.50"), (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 13, 5), "2024-02-29T13:05:00"),
        (pd.Timestamp(2024, 1, 1), "2024-01-01T00:00:00"),
        (["a", 1], '["a", 1]'), ({"键": None}, '{"键": null}'), (np.array([1, 2]), "[1, 2]"),
    ],
)  # fmt: skip
def test_a_cell_as_text(value: Any, text: str | None) -> None:
    assert cell_text(value) == text


def test_a_column_of_midnights_holds_dates() -> None:
    days = list(pd.Series(pd.to_datetime(["2024-01-01", None, "2024-12-31"])))
    assert column_texts(days) == ["2024-01-01", None, "2024-12-31"]
    assert column_texts([*days, pd.Timestamp(2024, 1, 1, 6)])[0] == "2024-01-01T00:00:00"


def test_widths_and_kinds_of_columns() -> None:
    frame = pd.DataFrame(
        {
            "whole": [23.0, np.nan], "small": np.array([71.2833, 0.1], np.float32), "flag": [True, False],
            "nullable": pd.array([5, None], "Int64"), "kind": pd.Categorical(["x", None]), "mixed": [1, "two"],
            "output": ["a", "b"],
        }
    )  # fmt: skip
    prompt = "[[{whole}]][[ {small}]][[ {flag}]][[ {nullable}]][[ {kind}]][[ {mixed}]]"
    assert merge_columns(frame, prompt).texts == ["23 71.2833 True 5 x 1", "0.1 False two"]
    arrow = datasets.Dataset.from_dict(
        {"small": [71.2833, None], "label": [0, 1], "output": ["a", "b"]},
        features=datasets.Features(
            {
                "small": datasets.Value("float32"),
                "label": datasets.ClassLabel(names=["bad", "good"]),
                "output": datasets.Value("string"),
            }
        ),
    )
    assert merge_columns(arrow, "[[{small} ]]{label}").texts == ["71.2833 bad", "good"]


def test_rows_without_an_answer_are_left_out_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"q": "one", "output": "1"},
        {"q": "two", "output": None},
        {"q": "three", "output": " "},
        {"q": None, "output": "4"},
    ]
    result = to_sharegpt(rows, "[[{q}]]")
    assert result["conversations"][:] == [[{"from": "human", "value": "one"}, {"from": "gpt", "value": "1"}]]
    said = capsys.readouterr().err
    assert "2 of 4 rows left out: no answer" in said
    assert "1 of 4 rows left out: no question" in said
    with pytest.raises(DataError, match="no row is left of 1"):
        to_sharegpt([{"q": "a", "output": math.nan}], "{q}")


def test_an_empty_prompt_keeps_the_column() -> None:
    rows = [{"instruction": " Keep  me ", "output": "ok"}]
    assert to_sharegpt(rows)["conversations"][0][0]["value"] == " Keep  me "
    other = [{"question": "Who?", "output": "I"}]
    assert to_sharegpt(other, merged_column_name="question")["conversations"][0][0]["value"] == "Who?"


def test_a_column_outside_of_an_optional_part_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": "x", "b": None, "output": "y"}, {"a": "x", "b": "z", "output": "y"}]
    assert merge_columns(rows, "{a}{b}").blank == {"b": 1}
    to_sharegpt(rows, "{a}{b}")
    assert "{b} is missing in 1 of 2 rows and stands outside of [[ ]]" in capsys.readouterr().err


def test_other_columns() -> None:
    rows = [{"q": "one", "output": "1", "id": 7}, {"q": "two", "output": None, "id": 8}]
    assert to_sharegpt(rows, "{q}!").column_names == ["conversations"]
    kept = to_sharegpt(rows, "{q}!", remove_unused_columns=False)
    assert set(kept.column_names) == {"q", "output", "id", "instruction", "conversations"}
    assert kept["instruction"][:] == ["one!"] and kept["id"][:] == [7]


def test_conversation_extension(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(20)]
    result = to_sharegpt(rows, conversation_extension=3)["conversations"][:]
    assert [[m["from"] for m in row] for row in result] == [["human", "gpt"] * 3] * 20
    assert all(m[i]["value"][1:] == m[i + 1]["value"][1:] for m in result for i in (0, 2, 4))
    assert "every row is in 3 of them" in capsys.readouterr().err
    assert to_sharegpt(rows, dialogue_extension=3)["conversations"][:] == result
    assert to_sharegpt(rows, conversation_extension=3, random_state=1)["conversations"][:] != result
    with pytest.raises(DataError, match="conversation_extension=2 and dialogue_extension=3"):
        to_sharegpt(rows, conversation_extension=2, dialogue_extension=3)
    with pytest.raises(DataError, match="needs 21 different rows, and there are 20"):
        to_sharegpt(rows, conversation_extension=21)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ([], "the data set is empty"),
        ("rows.csv", "the data is a str"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})}), 'dataset\\["train"\\]'),
        (datasets.IterableDataset.from_generator(lambda: iter([{"a": 1}])), "without streaming=True"),
        ([{"conversations": [{"from": "human", "value": "x"}], "output": "y"}], "use standardize_sharegpt"),
    ],
)
def test_tables_that_cannot_be_merged(table: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        to_sharegpt(table)


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(WhetError, match="did you mean merged_prompt"):
        to_sharegpt([{"instruction": "a", "output": "b"}], merge_prompt="x")


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.data())
@settings(max_examples=150, deadline=None)
def test_no_white_space_is_left_over(shown: list[bool], data: st.DataObject) -> None:
    """Parts of words, separated by one space each: what shows is joined by one space, whatever is left out."""
    glue = data.draw(st.sampled_from([" ", "\n", "\n\n", "\t"]))
    prompt = glue.join(f"[[part{i} {{c{i}}}.]]" for i in range(len(shown)))
    row = {f"c{i}": f"v{i}" if there else None for i, there in enumerate(shown)}
    counts = Counts()
    text = parse_prompt(prompt, list(row)).render(row, counts)
    assert text == glue.join(f"part{i} v{i}." for i, there in enumerate(shown) if there)
    assert sum(counts.left_out.values()) == shown.count(False)


@given(st.text(alphabet="ab {}[]\\\n\"'", max_size=30), st.text(max_size=10))
@settings(max_examples=150, deadline=None)
def test_escaped_text_and_values_come_through_as_they_are(text: str, value: str) -> None:
    escaped = "".join({"{": "{{", "}": "}}"}.get(character, character) for character in text.replace("\\", "/"))
    escaped = escaped.replace("[[", "\\[[").replace("]]", "\\]]")
    assert parse_prompt(f"<{escaped}>{{c}}", ["c"]).render({"c": value}) == f"<{text.replace(chr(92), '/')}>{value}"
