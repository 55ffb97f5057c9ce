"""Conversations of every shape become the messages that a chat template expects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from format_rows import from_arrow, made, read, refused

from whet.data.records import ChatRecord

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
WEATHER = {"name": "weather", "description": "of a city", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": WEATHER}


def chat(messages: list[Any], **fields: Any) -> list[dict[str, Any]]:
    record = made({"messages": messages}, **fields)
    assert isinstance(record, ChatRecord)
    return record.messages


def test_a_named_column_and_named_parts() -> None:
    rows = [{"chat": [{"who": "me", "says": "q"}, {"who": "narrator", "says": " a "}]}]
    fields = {"field_messages": "chat", "field_role": "who", "field_content": "says"}
    record = made(rows[0], kind="chat_template", **fields, roles={"user": ["me"], "assistant": ["narrator"]})
    assert record == ChatRecord([QUESTION, {"role": "assistant", "content": " a "}])
    assert 'the role "me" is not known' in refused(rows, kind="chat_template", **fields)
    odd = [{"messages": [{"role": "user", "says": "q"}]}]
    assert "row 1: a message has no content: it has role, says" in refused(odd)
    assert "a message has no from" in refused([{"messages": [QUESTION]}], field_role="from")
    assert 'names the role "robot"' in refused([{"messages": []}], roles={"robot": ["r2"]})
    assert 'no column "chats"' in refused(rows, field_messages="chats", kind="sharegpt")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("human", "user"),
        ("User", "user"),
        ("gpt", "assistant"),
        ("bot", "assistant"),
        ("model", "assistant"),
        ("developer", "system"),
        ("function", "tool"),
        ("observation", "tool"),
        ("function_response", "tool"),
        ("ipython", "tool"),
    ],
)
def test_names_of_roles(name: str, role: str) -> None:
    assert chat([{"from": name, "value": "x"}, {"from": "gpt", "value": "a"}])[0] == {"role": role, "content": "x"}


def test_keys_may_change_within_a_conversation() -> None:
    talk = [{"from": "human", "value": "q"}, ANSWER, {"role": "user", "value": "q"}, {"from": "gpt", "content": "a"}]
    assert chat(talk) == chat([QUESTION, ANSWER] * 2) == [QUESTION, ANSWER] * 2


def test_text_parts_are_joined_and_system_may_be_dropped() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat([{"role": "user", "content": parts}, {"role": "assistant", "content": parts}])[1]["content"] == "ab"
    talk = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    assert [m["role"] for m in chat(talk, drop_system_message=True)] == ["user", "assistant"]
    image = {"role": "user", "content": [{"type": "image", "text": "x"}]}
    assert "more than text" in refused([{"messages": [image, ANSWER]}])


def test_a_system_column_stands_in_front_of_conversations_without_one() -> None:
    row = {"system": "Be brief.", "conversations": [QUESTION, ANSWER]}
    result = read([row, row | {"system": None}, row | {"conversations": [{"role": "system", "content": "S"}, ANSWER]}])
    firsts = [record.messages[0] for record in result.records if isinstance(record, ChatRecord)]
    assert firsts == [{"role": "system", "content": "Be brief."}, QUESTION, {"role": "system", "content": "S"}]
    assert "with system" in result.reason
    assert made(row, drop_system_message=True) == ChatRecord([QUESTION, ANSWER])


def test_what_cannot_be_trained_is_counted_or_refused() -> None:
    empty = {"role": "assistant", "content": " \n"}
    talks = [[QUESTION, ANSWER], [QUESTION], None, [], [QUESTION, empty], [QUESTION, ANSWER, QUESTION, empty]]
    assert read([{"messages": talk} for talk in talks], kind="chat_template").dropped == {
        "no answer": 2,
        "an empty conversation": 2,
        "the last answer is empty": 1,
    }
    assert "no list of messages" in refused([{"messages": "hello"}])
    assert "no list of messages" in refused([{"messages": ["hello"]}])
    assert 'no column "messages"' in refused([{"text": "x"}], kind="chat_template")
    assert "role: it is null" in refused([{"messages": [{"role": None, "content": "x"}]}])


def test_a_conversation_as_json_text() -> None:
    assert made({"messages": json.dumps([QUESTION, ANSWER])}) == ChatRecord([QUESTION, ANSWER])


class TestTools:
    @pytest.mark.parametrize("arguments", [{"city": "Rome", "days": None}, '{"city": "Rome", "days": null}'])
    def test_arguments_are_an_object(self, arguments: object) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        result = {"role": "tool", "content": {"sky": "clear"}, "tool_call_id": "c1", "name": "weather"}
        talk = chat([QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}, result, ANSWER])
        expected = {"name": "weather", "arguments": {"city": "Rome", "days": None}}
        assert talk[1:3] == [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "type": "function", "function": expected}],
            },
            {"role": "tool", "content": '{"sky": "clear"}', "tool_call_id": "c1", "name": "weather"},
        ]

    def test_every_form_of_a_call(self) -> None:
        flat = {"name": "weather", "arguments": {}}
        expected = [{"type": "function", "function": flat}]
        for value in ([flat], flat, json.dumps([flat]), [json.dumps(flat)], [{"name": "weather", "arguments": ""}]):
            talk = chat([QUESTION, {"role": "assistant", "content": "", "tool_calls": value}])
            assert talk[1]["tool_calls"] == expected
        old = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
        assert chat([QUESTION, old])[1] == {"role": "assistant", "content": "", "tool_calls": expected}

    def test_sharegpt_calls_are_the_assistants(self) -> None:
        call = {"name": "weather", "arguments": {"city": "Rome"}}
        talk = [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": '{"sky": "clear"}'},
            {"from": "function_call", "value": "look it up"},
        ]
        found = chat(talk)
        calls = [{"type": "function", "function": call}]
        assert found[1:3] == [
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": '{"sky": "clear"}'},
        ]
        assert found[3] == {"role": "assistant", "content": "look it up"}

    def test_wrong_calls(self) -> None:
        for calls, words in [
            ([{"arguments": {}}], "a tool call has no name"),
            ([{"name": "f", "arguments": "{city"}], 'arguments of the call of "f": no JSON'),
            ([{"name": "f", "arguments": [1]}], "are no object"),
            ([5], "a tool call is no mapping"),
        ]:
            rows = [{"messages": [QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}]}]
            assert words in refused(rows)

    @pytest.mark.parametrize("value", [[TOOL], [WEATHER], json.dumps([WEATHER]), [json.dumps(TOOL)], TOOL])
    def test_the_tools_column(self, value: object) -> None:
        row = {"messages": [QUESTION, ANSWER], "tools": value}
        assert made(row) == ChatRecord([QUESTION, ANSWER], [TOOL])
        named = {"messages": [QUESTION, ANSWER], "functions": value}
        assert made(named, field_tools="functions") == ChatRecord([QUESTION, ANSWER], [TOOL])

    def test_rows_without_tools(self) -> None:
        for value in (None, [], "", "[]"):
            assert made({"messages": [QUESTION, ANSWER], "tools": value}) == ChatRecord([QUESTION, ANSWER])
        assert "the tools: no JSON" in refused([{"messages": [QUESTION, ANSWER], "tools": "weather"}])
        assert "a tool has no name" in refused([{"messages": [QUESTION, ANSWER], "tools": [{"type": "function"}]}])
        assert 'no column "functions"' in refused([{"messages": [QUESTION, ANSWER]}], field_tools="functions")

    def test_gaps_that_arrow_fills_are_no_arguments(self) -> None:
        def row(arguments: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
            call = {"function": {"name": "f", "arguments": arguments}}
            talk = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}]
            return {"messages": talk, "tools": [{"name": "f", "parameters": {"properties": properties}}]}

        rows = [row({"city": "Rome"}, {"city": {"type": "string"}}), row({"sum": [1]}, {"sum": {"enum": [1]}})]
        one, other = from_arrow(rows).records
        assert [one, other] == read(rows).records
        assert isinstance(other, ChatRecord) and other.tools is not None
        assert other.messages[1]["tool_calls"][0]["function"]["arguments"] == {"sum": [1]}
        assert other.tools[0]["function"]["parameters"] == {"properties": {"sum": {"enum": [1]}}}


class TestThinking:
    @pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
    def test_its_usual_names(self, key: str) -> None:
        assert chat([QUESTION, {**ANSWER, key: "hm"}])[1] == {**ANSWER, "reasoning_content": "hm"}

    def test_a_named_field_and_inline_text(self) -> None:
        row = [QUESTION, {"role": "assistant", "content": "<think>x</think>a", "thought": "hm", "thinking": "not this"}]
        assert chat(row, field_thinking="thought")[1] == {
            "role": "assistant",
            "content": "<think>x</think>a",
            "reasoning_content": "hm",
        }
        only_thought = [QUESTION, {"role": "assistant", "content": "", "thinking": "hm"}]
        assert read([{"messages": talk} for talk in (only_thought, [QUESTION, ANSWER])]).dropped == {"no answer": 1}


class TestFlags:
    @pytest.mark.parametrize(
        ("extra", "train"),
        [
            ({"train": False}, False),
            ({"training": True}, True),
            ({"weight": 0}, False),
            ({"weight": 1.0}, True),
            ({"weight": 0, "train": True}, True),
            ({"train": True, "weight": 0}, True),
            ({"train": "false"}, False),
            ({"train": None, "weight": None}, None),
        ],
    )
    def test_of_an_answer(self, extra: dict[str, Any], train: bool | None) -> None:
        talk = chat([QUESTION, ANSWER, QUESTION, {**ANSWER, **extra}])
        assert talk[3].get("train") is train and "weight" not in talk[3]

    def test_of_other_roles(self) -> None:
        assert chat([{**QUESTION, "weight": 1}, ANSWER])[0] == QUESTION
        assert chat([{**QUESTION, "train": True}, ANSWER])[0] == {**QUESTION, "train": True}

    def test_a_named_flag(self) -> None:
        talk = [QUESTION, {**ANSWER, "keep": False, "train": True}, QUESTION, ANSWER]
        assert chat(talk, message_field_training="keep")[1] == {**ANSWER, "train": False}
        assert chat(talk, properties={"train": "keep"})[1] == {**ANSWER, "train": False}

    def test_values_that_are_no_flags(self) -> None:
        assert "weight of a message is 0.5" in refused([{"messages": [QUESTION, {**ANSWER, "weight": 0.5}]}])

    def test_roles_to_train(self) -> None:
        talk = [QUESTION, ANSWER, {"role": "tool", "content": "t"}, {**ANSWER, "train": False}, ANSWER]

        def flags(*roles: str) -> list[bool | None]:
            return [message.get("train") for message in chat(talk, roles_to_train=list(roles))]

        assert flags("assistant") == flags("gpt") == [None, None, None, False, None]
        assert flags("assistant", "tool") == [None, None, True, False, None]
        assert flags("human") == [True, False, None, False, False]
        assert 'names the role "robot"' in refused([{"messages": talk}], roles_to_train=["robot"])

    def test_nothing_to_train(self) -> None:
        rows = [{"messages": [QUESTION, {**ANSWER, "train": False}]}, {"messages": [QUESTION, ANSWER]}]
        assert read(rows).dropped == {"no message is to be trained": 1}


def test_properties_by_other_names() -> None:
    names = {"tool_calls": "calls", "name": "who", "reasoning_content": "idea"}
    call = {"name": "f", "arguments": {}}
    talk = [QUESTION, {"role": "assistant", "calls": [call], "who": "Ann", "idea": "hm", "name": "no"}]
    assert chat(talk, properties=names)[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call}],
        "name": "Ann",
        "reasoning_content": "hm",
    }
    assert 'names "size"' in refused([{"messages": talk}], properties={"size": "x"})


def test_arrow_rows_and_plain_rows_give_the_same_records() -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [QUESTION, {**ANSWER, "train": False}, QUESTION, ANSWER]},
        {"messages": [{"role": "system", "content": "s"}, QUESTION, {**ANSWER, "thinking": "hm"}]},
        {"messages": [QUESTION, {**ANSWER, "weight": 1}]},
    ]
    assert from_arrow(rows).records == read(rows).records
