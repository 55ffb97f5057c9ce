"""Preference pairs and judged answers of every shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from format_rows import from_arrow, made, read, refused

from whet.config import parse_config
from whet.data.formats import FormatSpec, open_records
from whet.data.records import LabelRecord, PreferenceRecord
from whet.data.stream import open_rows

Q, Q2 = {"role": "user", "content": "q"}, {"role": "user", "content": "q2"}
A, B = {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}
S = {"role": "system", "content": "s"}
PAIR = PreferenceRecord([Q], [A], [B])
WITH_SYSTEM = PreferenceRecord([S, Q], [A], [B])


def sharegpt(*messages: dict[str, str]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in messages]


SHAPES: list[tuple[dict[str, Any], PreferenceRecord]] = [
    ({"conversation": [Q], "chosen": A, "rejected": B}, PAIR),
    ({"messages": [Q], "chosen": "a", "rejected": [B]}, PAIR),
    ({"messages": [Q], "chosen": [A], "rejected": {"content": "b"}}, PAIR),
    ({"messages": [Q], "chosen": [S, Q2, A], "rejected": [Q2, B]}, PAIR),
    ({"conversations": sharegpt(Q), "chosen": sharegpt(A)[0], "rejected": sharegpt(B)}, PAIR),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, PAIR),
    ({"prompt": [S, Q], "chosen": [A], "rejected": [B]}, WITH_SYSTEM),
    ({"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]}, PAIR),
    ({"prompt": "q", "chosen": [Q, A, Q2, B], "rejected": [Q, B]}, PreferenceRecord([Q], [A, Q2, B], [B])),
    ({"chosen": [S, Q, A], "rejected": [S, Q, B]}, WITH_SYSTEM),
    ({"chosen": [Q, A, Q2, A], "rejected": [Q, A, Q2, B]}, PreferenceRecord([Q, A, Q2], [A], [B])),
    ({"chosen": sharegpt(Q, A), "rejected": sharegpt(Q, B)}, PAIR),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, PAIR),
    ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, WITH_SYSTEM),
    ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, PAIR),
    ({"instruction": "q", "chosen_response": "a", "rejected_response": "b"}, PAIR),
    ({"prompt": "q", "messages": [Q, A], "chosen": [Q, A], "rejected": [Q, B]}, PAIR),
]


@pytest.mark.parametrize(("row", "record"), SHAPES)
def test_shapes_are_recognised(row: dict[str, Any], record: PreferenceRecord) -> None:
    for result in (read([row]), from_arrow([row, row])):
        assert result.records[0] == record
        assert result.reason.startswith("type found from the columns: preference pairs: the prompt is ")


@pytest.mark.parametrize(
    ("kind", "row", "record"),
    [
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, PAIR),
        ("chat_template.default", {"messages": [Q], "chosen": A, "rejected": B}, PAIR),
        ("chat_template.argilla", {"instruction": "q", "chosen_response": "a", "rejected_response": "b"}, PAIR),
        ("chat_template.argilla", {"chosen": [Q, A], "rejected": [Q, B]}, PAIR),
        ("chat_template.argilla_chat", {"chosen": [Q, A], "rejected": [Q, B], "prompt": "other"}, PAIR),
        ("chatml.intel", {"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, WITH_SYSTEM),
        ("chatml.argilla", {"instruction": "q", "chosen_response": "a", "rejected_response": "b"}, PAIR),
        ("llama3.prompt_pairs", {"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"}, WITH_SYSTEM),
        ("chatml.ultra", {"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]}, PAIR),
        ("chatml.icr", {"input": "q", "instruction": "x", "chosen": "a", "rejected": "b"}, PAIR),
    ],
)
def test_named_types(kind: str, row: dict[str, Any], record: PreferenceRecord) -> None:
    result = read([row], kind=kind)
    assert result.records == [record] and result.reason.startswith(f"{kind}: preference pairs")


def test_named_columns() -> None:
    row = {"talk": [{"who": "user", "says": "q"}], "good": {"who": "assistant", "says": "a"}, "bad": "b"}
    fields = {"field_messages": "talk", "field_chosen": "good", "field_rejected": "bad"}
    parts = {"field_role": "who", "field_content": "says"}
    assert made(row, kind="chat_template.default", **fields, **parts) == PAIR
    assert made(row, kind="chat_template", **fields, **parts) == PAIR
    assert made(row, **fields, **parts) == PAIR
    assert 'did you mean "good"? set field_chosen' in refused([row], **{**fields, "field_chosen": "goood"}, **parts)
    assert 'no column "rejected"' in refused([{"messages": [Q], "chosen": A}], kind="chat_template.default")
    assert 'no column "question"' in refused([{"prompt": "q", "chosen": "a", "rejected": "b"}], kind="chatml.intel")


def test_instruction_and_input_are_one_message() -> None:
    record = made({"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"})
    assert isinstance(record, PreferenceRecord) and record.prompt == [{"role": "user", "content": "Add.\n1, 2"}]


def test_tools_and_calls_in_an_answer() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": "{}"}]}
    record = made({"messages": [Q], "chosen": call, "rejected": "b", "tools": [{"name": "f"}]})
    assert isinstance(record, PreferenceRecord) and record.tools is not None
    assert record.chosen[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_the_answers_are_trained_whatever_roles_to_train_says() -> None:
    assert made({"prompt": "q", "chosen": "a", "rejected": "b"}, roles_to_train=["user"]) == PAIR
    assert made({"prompt": [S, Q], "chosen": "a", "rejected": "b"}, drop_system_message=True) == PAIR


def test_pairs_that_cannot_be_used_are_counted() -> None:
    beside = [("q", "a", "b"), ("q", "a", "a"), ("", "a", "b"), ("q", None, "b"), ("q", "a", " "), ([Q, A], "a", "b")]
    rows: list[dict[str, Any]] = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in beside]
    rows.append({"prompt": [Q, B], "chosen": "a", "rejected": "c"})
    result = read(rows)
    assert result.records == [PAIR, PAIR]  # a prompt that already ends with the better answer loses it
    assert result.dropped == {
        "chosen and rejected are the same": 1,
        "no prompt": 1,
        "no chosen answer": 1,
        "no rejected answer": 1,
        "the prompt ends with an answer": 1,
    }
    whole = [([Q, A], [Q, B]), ([Q, A], [Q, A]), ([Q, A], [Q2, B]), ([Q, A], [Q, A, Q2, B]), ([Q, A, Q2], [Q, B])]
    result = read([{"chosen": chosen, "rejected": rejected} for chosen, rejected in whole])
    assert result.records == [PAIR]
    assert result.dropped == {
        "chosen and rejected are the same": 1,
        "chosen and rejected share no beginning": 1,
        "no chosen answer": 2,
    }
    assert "no column holds the prompt" in refused([{"chosen": "a", "rejected": "b"}])


class TestLabels:
    @pytest.mark.parametrize(
        ("label", "good"),
        [(True, True), (0, False), ("true", True), ("False", False), (1.0, True), ("thumbs_down", False), ("👍", True)],
    )
    def test_truth(self, label: object, good: bool) -> None:
        result = read([{"prompt": "q", "completion": "a", "label": label}], kind="kto")
        assert result.records == [LabelRecord([Q], [A], good)]
        assert "good or bad by label" in result.reason

    @pytest.mark.parametrize(
        ("fields", "row"),
        [
            ({}, {"prompt": [Q], "completion": [A], "label": True}),
            ({}, {"prompt": "q", "completion": [Q, A], "label": "True"}),
            ({}, {"messages": [Q, A], "kto_tag": True}),
            ({"kind": "kto"}, {"messages": [Q], "completion": "a", "label": True}),
            ({"kind": "kto"}, {"completion": [Q, A], "label": True}),
            ({"kind": "kto.ultra"}, {"prompt": "q", "completion": "a", "label": True}),
            ({"kind": "kto.argilla_chat"}, {"completion": [Q, A], "label": True}),
            ({"kind": "chatml.intel"}, {"question": "q", "completion": "a", "label": True}),
            ({"field_label": "liked"}, {"prompt": "q", "response": "a", "liked": "yes"}),
            ({"kind": "chat_template", "field_label": "liked"}, {"messages": [Q, A], "liked": True}),
        ],
    )
    def test_shapes(self, fields: dict[str, Any], row: dict[str, Any]) -> None:
        assert made(row, **fields) == LabelRecord([Q], [A], True)

    @pytest.mark.parametrize("label", ["sports", 1, 0, None])
    def test_a_class_is_no_judgement(self, label: object) -> None:
        result = read([{"prompt": "q", "completion": "a", "label": label}])
        assert result.reason == "type found from the columns: columns prompt and completion"

    def test_what_cannot_be_used(self) -> None:
        rows = [("q", "a", True), ("q", "a", None), ("q", "", True), ("", "a", True), ([Q, B], "a", True)]
        result = read([{"prompt": p, "completion": c, "label": label} for p, c, label in rows], kind="kto")
        assert len(result.records) == 1
        assert result.dropped == {"no label": 1, "no answer": 1, "no prompt": 1, "the prompt ends with an answer": 1}
        assert "the label is 'maybe'" in refused([{"prompt": "q", "completion": "a", "label": "maybe"}], kind="kto")
        assert 'no column "label"' in refused([{"prompt": "q", "completion": "a"}], kind="kto")
        assert 'no column "completion"' in refused([{"text": "q", "label": True}], kind="kto")


def test_the_articles_rows_in_both_forms(shared: Path) -> None:
    folder = shared / "data" / "dpo"
    lines = (folder / "article_dpo.jsonl").read_text(encoding="utf-8").splitlines()
    config = (shared / "acceptance" / "tutorial_dpo.yml").read_text(encoding="utf-8")
    entry = parse_config(config.replace("chat_template: qwen_25\nrl: dpo\n", "")).datasets[0]
    stream = open_rows(folder / "article_dpo.jsonl", **entry.source_fields())
    named = open_records(stream, FormatSpec(**entry.format_fields()))
    assert named.reason == (
        "chat_template.default: preference pairs: the prompt is the column conversation, "
        "the answers are chosen and rejected"
    )
    records = list(named)
    assert len(records) == len(lines) == 300 and not named.dropped
    for line, record in zip(lines, records, strict=True):
        row = json.loads(line)
        assert record == PreferenceRecord(row["conversation"], [row["chosen"]], [row["rejected"]])
    for name in ("article_dpo.jsonl", "sharegpt_dpo.json"):
        assert list(open_records(open_rows(folder / name), FormatSpec())) == records
