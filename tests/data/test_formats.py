"""Rows become records exactly; what is missing is named, what is left out is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.config import parse_config
from whet.data.formats import ALPACA_FORMAT, ALPACA_NO_INPUT, FormatResult, FormatSpec, to_records
from whet.data.records import ChatRecord, PairRecord, TextRecord
from whet.data.sources import read_rows
from whet.errors import DataError


def read(rows: list[dict[str, Any]], **fields: Any) -> FormatResult:
    return to_records(datasets.Dataset.from_list(rows), FormatSpec(**fields))


def refused(rows: list[dict[str, Any]], **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(rows, **fields)
    return str(caught.value)


OWN = {
    "kind": "mapping",
    "field_instruction": "question",
    "field_input": "context",
    "field_output": "answer",
    "format": "T: {input}\nQ: {instruction}\nA: ",
}


def test_a_format_of_your_own() -> None:
    row = {"question": "how many?", "context": "t(a)", "answer": " SELECT 1 "}
    assert read([row], **OWN).records == [PairRecord("T: t(a)\nQ: how many?\nA: ", " SELECT 1 ")]


def test_rows_without_input_use_their_own_format() -> None:
    rows = [{"question": "q", "context": None, "answer": "a"}, {"question": "q", "context": "c", "answer": "a"}]
    made = read(rows, **OWN, no_input_format="Q: {instruction}\nA: ").records
    assert made == [PairRecord("Q: q\nA: ", "a"), PairRecord("T: c\nQ: q\nA: ", "a")]
    assert read(rows, **OWN).records[0] == PairRecord("T: \nQ: q\nA: ", "a")


def test_system_text_fixed_or_from_a_column() -> None:
    row = {"question": "q", "context": "c", "answer": "a", "sys": "be brief"}
    fixed = {**OWN, "system_prompt": "answer in SQL", "system_format": "S: {system}\n"}
    assert read([row], **fixed).records[0] == PairRecord("S: answer in SQL\nT: c\nQ: q\nA: ", "a")
    assert read([row], **fixed, field_system="sys").records[0] == PairRecord("S: be brief\nT: c\nQ: q\nA: ", "a")


@settings(deadline=None, max_examples=50)
@given(question=st.text(min_size=1), answer=st.text(min_size=1))
def test_any_text_reaches_the_record_unchanged(question: str, answer: str) -> None:
    if not question.strip() or not answer.strip() or "\ud800" <= max(question + answer) <= "\udfff":
        return
    made = read([{"question": question, "context": "{instruction}", "answer": answer}], **OWN).records
    assert made == [PairRecord(f"T: {{instruction}}\nQ: {question}\nA: ", answer)]


def test_braces_in_a_format() -> None:
    spec = {**OWN, "format": '{{x}} {"k": [1]} {instruction}|'}
    made = read([{"question": "q", "context": "c", "answer": "a"}], **spec).records
    assert made == [PairRecord('{x} {"k": [1]} q|', "a")]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"format": "{question}"}, "format holds {question}"),
        ({"format": "{instruction} {output}"}, "leave it out"),
        ({"no_input_format": "{system}"}, "no_input_format holds {system}"),
        ({"field_output": "anser"}, 'no column "anser"'),
        ({"field_output": "anser"}, 'did you mean "answer"?'),
        ({"field_input": "ctx"}, "one of question, context, answer"),
        ({"field_system": "system"}, 'no column "system"'),
    ],
)
def test_a_wrong_mapping(spec: dict[str, Any], words: str) -> None:
    assert words in refused([{"question": "q", "context": "c", "answer": "a"}], **{**OWN, **spec})


def test_rows_without_an_answer_are_counted() -> None:
    rows = [
        {"question": "q", "context": "c", "answer": "a"},
        {"question": "q", "context": "c", "answer": None},
        {"question": "q", "context": "c", "answer": " \n"},
        {"question": "", "context": None, "answer": "a"},
    ]
    result = read(rows, **OWN)
    assert (len(result.records), result.dropped) == (1, {"no answer": 2, "no prompt": 1})
    assert "no row is left of 2: 2 with no answer" in refused(rows[1:3], **OWN)


def test_numbers_and_lists_become_text() -> None:
    made = read([{"question": 5, "context": ["a", "x"], "answer": 1.5}], **OWN | {"format": "{instruction}{input}"})
    assert made.records == [PairRecord('5["a", "x"]', "1.5")]


def test_alpaca_with_and_without_input(shared: Path) -> None:
    rows = read_rows(shared / "data" / "alpaca" / "alpaca_en_demo.json")
    records = to_records(rows, FormatSpec(kind="alpaca")).records
    assert len(records) == len(rows) == 999
    for row, record in zip(rows, records, strict=True):
        frame = ALPACA_FORMAT if row["input"] else ALPACA_NO_INPUT
        expected = frame.format(instruction=row["instruction"], input=row["input"])
        assert record == PairRecord(expected, row["output"])


@pytest.mark.parametrize(
    ("rows", "record", "words"),
    [
        ([{"text": "hello"}], TextRecord("hello"), "column text"),
        ([{"text": "t", "prompt": "p", "completion": "c"}], PairRecord("p", "c"), "prompt and completion"),
        ([{"instruction": "i", "output": "o"}], PairRecord(ALPACA_NO_INPUT.format(instruction="i"), "o"), "Alpaca"),
        (
            [{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}],
            ChatRecord([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]),
            "conversations",
        ),
        (
            [{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}],
            ChatRecord([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]),
            "as messages",
        ),
    ],
)
def test_the_type_is_found_from_the_columns(rows: list[dict[str, Any]], record: object, words: str) -> None:
    result = read(rows)
    assert result.records == [record]
    assert result.reason.startswith("type found from the columns: ") and words in result.reason


def test_columns_that_nobody_knows() -> None:
    message = refused([{"survived": 1, "age": 2}])
    assert "not recognised: survived, age" in message and "field_instruction" in message


def test_completion_of_a_named_column() -> None:
    assert read([{"body": "x"}, {"body": ""}], kind="completion", field="body").records == [TextRecord("x")]
    assert 'no column "text"' in refused([{"body": "x"}], kind="completion")


class TestConversations:
    def test_a_named_column_and_named_parts(self) -> None:
        rows = [{"chat": [{"who": "me", "says": "q"}, {"who": "bot", "says": " a "}]}]
        fields = {"field_messages": "chat", "field_role": "who", "field_content": "says"}
        made = read(rows, kind="chat_template", **fields, roles={"user": ["me"], "assistant": ["bot"]}).records
        assert made == [ChatRecord([{"role": "user", "content": "q"}, {"role": "assistant", "content": " a "}])]
        assert 'the role "me" is not known' in refused(rows, kind="chat_template", **fields)
        odd = [{"messages": [{"role": "user", "says": "q"}]}]
        assert "row 1: a message has no content: it has role, says" in refused(odd)

    def test_text_parts_are_joined_and_system_may_be_dropped(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        user = [{"type": "text", "text": "q"}]
        rows = [{"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": parts}]}]
        made = read(rows, kind="chat_template").records[0]
        assert isinstance(made, ChatRecord) and made.messages[1] == {"role": "assistant", "content": "ab"}
        rows = [{"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant")]}]
        short = read(rows, kind="chat_template", drop_system_message=True).records[0]
        assert isinstance(short, ChatRecord) and [m["role"] for m in short.messages] == ["user", "assistant"]

    def test_what_cannot_be_trained_is_counted_or_refused(self) -> None:
        question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
        rows = [{"messages": [question, answer]}, {"messages": [question]}, {"messages": None}, {"messages": []}]
        assert read(rows, kind="chat_template").dropped == {"no answer": 2, "no conversation": 1}
        image = {"role": "user", "content": [{"type": "image", "text": "x"}]}
        assert "more than text" in refused([{"messages": [image, {"role": "assistant", "content": [image]}]}])
        assert "no list of messages" in refused([{"messages": "hello"}])
        assert 'no column "messages"' in refused([{"text": "x"}], kind="chat_template")

    def test_the_articles_rows(self, shared: Path) -> None:
        rows = read_rows(shared / "data" / "dpo" / "article_dpo.jsonl", split="train[:20]")
        result = read(rows.to_list(), field_messages="conversation")
        assert all(isinstance(record, ChatRecord) for record in result.records)


def test_the_configs_fields_are_the_specs_fields() -> None:
    text = """base_model: x
datasets:
  - {path: a, type: {field_input: c, format: "{input}"}}
  - {path: b, type: alpaca}
"""
    own, alpaca = (FormatSpec(**entry.format_fields()) for entry in parse_config(text).datasets)
    assert (own.kind, own.field_input, own.format, alpaca.kind) == ("mapping", "c", "{input}", "alpaca")
    plain = parse_config("base_model: x\ndatasets: [{path: a, type: {system_prompt: ''}}]").datasets[0]
    assert FormatSpec(**plain.format_fields()) == FormatSpec(kind="mapping")
