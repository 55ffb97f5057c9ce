"""Any columns as one question, from the YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet.config import parse_config
from whet.data.formats import FormatSpec, open_records
from whet.data.stream import open_rows, rows_of
from whet.errors import ConfigError, DataError

PROMPT = "[[The passenger embarked from {embarked}.]] [[Their age is {age}.]] [[Their fare is ${fare}.]]"


def test_titanic(shared: Path):
    spec = FormatSpec(kind="mapping", merged_prompt=PROMPT, field_output="survived", system_prompt="0 or 1?")
    records = list(open_records(open_rows(shared / "data" / "titanic" / "titanic.csv"), spec))
    assert len(records) == 891
    assert records[0].messages == [
        {"role": "system", "content": "0 or 1?"},
        {"role": "user", "content": "The passenger embarked from S. Their age is 22. Their fare is $7.25."},
        {"role": "assistant", "content": "0"},
    ]
    texts = [record.messages[1]["content"] for record in records]
    assert not [text for text in texts if "nan" in text or "None" in text or ".0." in text or "  " in text]
    assert [text for text in texts if text != text.strip()] == []
    assert sum("age" not in text for text in texts) == 177


def test_rows_without_answer_or_question_are_left_out():
    rows = [{"a": "x", "b": "1"}, {"a": "x", "b": None}, {"a": None, "b": "1"}]
    records = open_records(rows_of(rows), FormatSpec(kind="mapping", merged_prompt="[[Say {a}.]]", field_output="b"))
    assert len(list(records)) == 1
    assert records.dropped == {"no answer": 1, "no prompt": 1}


def test_a_wrong_prompt_shows_where():
    with pytest.raises(DataError, match=r"ag(.|\n)*\^"):
        open_records(rows_of([{"age": 1, "b": 2}]), FormatSpec("mapping", merged_prompt="{ag}", field_output="b"))


def test_the_config_takes_one_kind_of_prompt():
    text = "base_model: starter\nadapter: lora\ndatasets:\n  - path: a.csv\n    type:\n      merged_prompt: '{a}'\n"
    config = parse_config(text)
    assert config.datasets[0].format_fields()["merged_prompt"] == "{a}"
    with pytest.raises(ConfigError, match="merged_prompt alone names the columns: leave out format"):
        parse_config(text + "      format: '{instruction}'\n")
