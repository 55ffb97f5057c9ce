"""Several rows in one conversation, and conversations of any dialect in one form."""

from __future__ import annotations

from collections import Counter
from typing import Any

import datasets
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.turns import extend, standardize_sharegpt
from whet.errors import DataError, WhetError

SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
OPENAI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_no_row_twice_and_each_equally_often(rows: int, turns: int, seed: int) -> None:
    if rows < turns:
        with pytest.raises(DataError, match=f"needs {turns} different rows"):
            extend(rows, turns, seed)
        return
    found = extend(rows, turns, seed)
    assert len(found) == rows
    assert all(len(set(conversation)) == turns for conversation in found)
    assert Counter(row for conversation in found for row in conversation) == dict.fromkeys(range(rows), turns)
    assert found == extend(rows, turns, seed)
    assert [conversation[0] for conversation in found] == list(range(rows))


def test_the_order_depends_on_the_seed() -> None:
    assert extend(50, 3, 1) != extend(50, 3, 2)


@pytest.mark.parametrize("turns", [0, -1, 1.5, True, "2", None])
def test_a_number_of_turns_that_is_none(turns: Any) -> None:
    with pytest.raises(DataError, match="conversation_extension="):
        extend(10, turns, 0)


@pytest.mark.parametrize(
    "table",
    [
        [{"conversations": SHAREGPT}],  # one row only
        [{"conversations": OPENAI}],
        [{"messages": OPENAI}],
        [{"messages": SHAREGPT}],
        [{"conversation": [{"from": "input", "value": "hi"}, {"from": "output", "value": "hello"}]}],
        datasets.Dataset.from_list([{"conversations": SHAREGPT}]),
        pd.DataFrame([{"messages": OPENAI}]),
    ],
)
def test_every_dialect_becomes_the_same(table: Any) -> None:
    result = standardize_sharegpt(table)
    assert result.column_names == ["conversations"]
    assert result["conversations"][:] == [OPENAI]


def test_repeated_texts() -> None:
    same = [{"from": "human", "value": "gpt"}, {"from": "gpt", "value": "gpt"}]
    result = standardize_sharegpt([{"conversations": same}] * 3)["conversations"][:]
    assert result == [[{"role": "user", "content": "gpt"}, {"role": "assistant", "content": "gpt"}]] * 3


def test_extra_keys_and_columns_stay() -> None:
    call = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    rows = [
        {
            "id": 4,
            "conversations": [
                {"from": "human", "value": "hi", "weight": 0, "unused": None},
                {"from": "gpt", "value": None, "weight": 1, "tool_calls": call},
                {"from": "tool", "value": "3", "name": "f", "train": False},
            ],
        }
    ]
    row = standardize_sharegpt(rows)[0]
    assert row["id"] == 4
    user, assistant, tool = ({k: v for k, v in m.items() if v is not None} for m in row["conversations"])
    assert user == {"role": "user", "content": "hi", "weight": 0}
    assert assistant == {"role": "assistant", "content": "", "weight": 1, "tool_calls": call}
    assert tool == {"role": "tool", "content": "3", "name": "f", "train": False}
    assert "unused" not in row["conversations"][0]


def test_roles() -> None:
    names = ["system", "human", "function_call", "observation", "function_response", "tool", "gpt"]
    messages = [{"from": name, "value": name} for name in names]
    result = standardize_sharegpt([{"conversations": messages}])["conversations"][0]
    assert [m["role"] for m in result] == ["system", "user", "assistant", "tool", "tool", "tool", "assistant"]


def test_names_of_the_callers_own() -> None:
    messages = [{"role": "customer", "content": "hi"}, {"role": "agent", "content": "hello"}]
    result = standardize_sharegpt(
        [{"messages": messages}], aliases_for_user=["customer"], aliases_for_assistant=["agent"]
    )
    assert result["conversations"][:] == [OPENAI]


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ([{"text": "a"}], "no column holds conversations: text"),
        ([{"conversations": SHAREGPT}, {"conversations": "hi"}], "row 2: no list of messages"),
        ([{"conversations": [{"from": "narrator", "value": "x"}]}], 'row 1, message 1: the role "narrator"'),
        ([{"conversations": [{"from": "human", "text": "x"}]}], "row 1, message 1 has no key for a content: it has"),
        ([{"conversations": [{"value": "x"}]}], "has no key for a role"),
        ([], "the data set is empty"),
    ],
)
def test_bad_rows(table: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        standardize_sharegpt(table)


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(WhetError, match="did you mean aliases_for_user"):
        standardize_sharegpt([{"messages": OPENAI}], aliases_for_users=["x"])
