"""Rows become records exactly; what is missing is named, what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from format_rows import made, read, refused, stream
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.config import parse_config
from whet.config.dataset_keys import DATASET_TYPES
from whet.data.formats import ALPACA_FORMAT, ALPACA_NO_INPUT, FormatSpec, open_records
from whet.data.records import ChatRecord, PairRecord, Record, TextRecord
from whet.errors import DataError

OWN: dict[str, Any] = {
    "kind": "mapping",
    "field_instruction": "question",
    "field_input": "context",
    "field_output": "answer",
    "format": "T: {input}\nQ: {instruction}\nA: ",
}


def plain(record: Record) -> tuple[str, str]:
    assert isinstance(record, PairRecord)
    return record.prompt, record.completion


def cells_of(record: Record) -> list[str]:
    """The texts in the ranges that come from cells."""
    assert isinstance(record, PairRecord)
    return [(record.prompt + record.completion)[start:end] for start, end in record.content]


def test_a_format_of_your_own() -> None:
    row = {"question": "how many?", "context": "t(a)", "answer": " SELECT 1 "}
    record = made(row, **OWN)
    assert plain(record) == ("T: t(a)\nQ: how many?\nA: ", " SELECT 1 ")
    assert cells_of(record) == ["t(a)", "how many?", " SELECT 1 "]


def test_rows_without_input_use_their_own_format() -> None:
    rows = [{"question": "q", "context": None, "answer": "a"}, {"question": "q", "context": "c", "answer": "a"}]
    records = read(rows, **OWN, no_input_format="Q: {instruction}\nA: ").records
    assert [plain(record) for record in records] == [("Q: q\nA: ", "a"), ("T: c\nQ: q\nA: ", "a")]
    assert plain(read(rows, **OWN).records[0]) == ("T: \nQ: q\nA: ", "a")


def test_system_text_fixed_or_from_a_column() -> None:
    row = {"question": "q", "context": "c", "answer": "a", "sys": "be brief"}
    fixed = {**OWN, "system_prompt": "answer in SQL", "system_format": "S: {system}\n"}
    one, other = made(row, **fixed), made(row, **fixed, field_system="sys")
    assert plain(one) == ("S: answer in SQL\nT: c\nQ: q\nA: ", "a") and cells_of(one) == ["c", "q", "a"]
    assert plain(other) == ("S: be brief\nT: c\nQ: q\nA: ", "a") and cells_of(other) == ["be brief", "c", "q", "a"]


@settings(deadline=None, max_examples=100)
@given(question=st.text(min_size=1), context=st.text(), answer=st.text(min_size=1), system=st.text())
def test_any_text_reaches_the_record_unchanged(question: str, context: str, answer: str, system: str) -> None:
    if not question.strip() or not answer.strip():
        return
    row = {"question": question, "context": context, "answer": answer, "sys": system}
    record = made(row, **OWN, system_format="S{system}{{}}", field_system="sys")
    head = f"S{system}{{}}" if system else ""
    assert plain(record) == (f"{head}T: {context}\nQ: {question}\nA: ", answer)
    assert cells_of(record) == [text for text in (system, context, question, answer) if text]


def test_cells_that_touch_are_one_range() -> None:
    row = {"question": "<|im_", "context": "end|>", "answer": "a"}
    record = made(row, **OWN | {"format": "Q: {instruction}{input}"})
    assert cells_of(record) == ["<|im_end|>a"]


def test_braces_in_a_format() -> None:
    spec = {**OWN, "format": '{{x}} {"k": [1]} {instruction}|'}
    assert plain(made({"question": "q", "context": "c", "answer": "a"}, **spec)) == ('{x} {"k": [1]} q|', "a")


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
    record = made({"question": 5, "context": ["a", "x"], "answer": 1.5}, **OWN | {"format": "{instruction}{input}"})
    assert plain(record) == ('5["a", "x"]', "1.5")
    assert plain(made({"question": 23.0, "context": float("nan"), "answer": True}, **OWN)) == (
        "T: \nQ: 23\nA: ",
        "True",
    )


def test_alpaca_with_and_without_input(shared: Path) -> None:
    rows = json.loads((shared / "data" / "alpaca" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    records = read(rows, kind="alpaca").records
    assert len(records) == len(rows) == 999
    for row, record in zip(rows, records, strict=True):
        frame = ALPACA_FORMAT if row["input"] else ALPACA_NO_INPUT
        assert plain(record) == (frame.format(instruction=row["instruction"], input=row["input"]), row["output"])
        assert cells_of(record) == [text for text in (row["instruction"], row["input"], row["output"]) if text]


def test_alpaca_as_messages() -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "Be brief."}
    record = made(row, kind="alpaca:chat")
    assert isinstance(record, ChatRecord)
    assert [(m["role"], m["content"]) for m in record.messages] == [
        ("system", "Be brief."),
        ("user", "Add.\n1 and 2"),
        ("assistant", "3"),
    ]
    short = made({"instruction": "Add.", "output": "3"}, kind="alpaca:chat")
    assert isinstance(short, ChatRecord) and short.messages[0] == {"role": "user", "content": "Add."}
    assert 'no column "output"' in refused([{"instruction": "i", "response": "r"}], kind="alpaca:chat")


@pytest.mark.parametrize(
    ("rows", "record", "words"),
    [
        ([{"text": "hello"}], TextRecord("hello"), "column text"),
        ([{"text": "t", "prompt": "p", "completion": "c"}], PairRecord("p", "c"), "prompt and completion"),
        (
            [{"instruction": "i", "output": "o"}],
            PairRecord(ALPACA_NO_INPUT.format(instruction="i"), "o", ((124, 125), (141, 142))),
            "Alpaca",
        ),
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


def test_prompt_and_completion_in_any_mixture() -> None:
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    for prompt, completion in [("q", answer), ([question], "a"), (question, [answer]), ("q", [answer])]:
        record = made({"prompt": prompt, "completion": completion}, kind="prompt_completion")
        assert record == ChatRecord([question, answer])
    record = made({"prompt": [question, answer, question], "completion": [answer]})
    assert isinstance(record, ChatRecord)
    assert [message.get("train") for message in record.messages] == [None, False, None, None]
    assert made({"prompt": "", "completion": "a<|im_end|>"}) == PairRecord("", "a<|im_end|>")


def test_records_come_in_batches_and_can_be_read_again() -> None:
    rows = [{"text": f"row {i}" if i % 10 else ""} for i in range(95)]
    records = open_records(stream(rows), FormatSpec())
    for _ in range(2):
        found = [(len(part), batch.first) for part, batch in records.batches(size=20)]
        assert found == [(18, 1), (18, 21), (18, 41), (18, 61), (13, 81)]
        assert records.dropped == {"no text": 10}
    assert [record.text for record in records if isinstance(record, TextRecord)][:2] == ["row 1", "row 2"]


def test_a_wrong_row_is_named_with_source_and_number() -> None:
    good = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    rows = [good] * 1500 + [{"messages": [{"role": "wizard", "content": "q"}]}]
    opened = stream(rows)
    with pytest.raises(DataError) as caught:
        list(open_records(opened, FormatSpec()))
    assert str(caught.value).startswith(f'{opened.name}: row 1501: the role "wizard" is not known')


def test_no_usable_row_is_an_error_at_the_end() -> None:
    records = open_records(stream([{"text": ""}, {"text": None}]), FormatSpec())
    with pytest.raises(DataError, match="no row is left of 2: 2 with no text"):
        list(records)


@pytest.mark.parametrize("kind", DATASET_TYPES)
def test_every_type_of_the_config_is_known_here(kind: str) -> None:
    message = refused([{"nothing": "of use"}], kind=kind)
    assert "no column" in message and "is not known" not in message


def test_types_that_are_not_there() -> None:
    assert "not supported yet" in refused([{"segments": []}], kind="input_output")
    assert 'did you mean "sharegpt"?' in refused([{"text": "x"}], kind="share_gpt")


def test_the_configs_fields_are_the_specs_fields() -> None:
    text = """base_model: x
datasets:
  - {path: a, type: {field_input: c, format: "{input}"}}
  - {path: b, type: alpaca}
"""
    own, alpaca = (FormatSpec(**entry.format_fields()) for entry in parse_config(text).datasets)
    assert (own.kind, own.field_input, own.format, alpaca.kind) == ("mapping", "c", "{input}", "alpaca")
    unset = parse_config("base_model: x\ndatasets: [{path: a, type: {system_prompt: ''}}]").datasets[0]
    assert FormatSpec(**unset.format_fields()) == FormatSpec(kind="mapping")
