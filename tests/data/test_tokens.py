"""Records of every shape to encoded rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from whet.data.records import ChatRecord, PairRecord, Record, TextRecord
from whet.data.tokens import encode_records
from whet.text.encode import IGNORE, Encoded, encode_messages, encode_pair, encode_text

TALK = [
    {"role": "user", "content": "How many orders?"},
    {"role": "assistant", "content": "Four."},
    {"role": "user", "content": "And in March?"},
    {"role": "assistant", "content": "One."},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def trained_text(tokenizer: Any, row: Encoded) -> str:
    return tokenizer.decode([label for label in row.labels if label != IGNORE])


def encoded(tokenizer: Any, *records: Record, **options: Any) -> list[Encoded]:
    return list(encode_records(tokenizer, list(records), **options))


def test_shapes_may_be_mixed_and_order_is_kept(tokenizer: Any) -> None:
    records = [
        TextRecord("one"),
        PairRecord("Question: 2\n", "two"),
        PairRecord("Question: 3\n", "three"),
        ChatRecord(TALK),
        TextRecord("four<|im_end|>"),
        TextRecord("five"),
    ]
    assert encoded(tokenizer, *records) == [
        encode_text(tokenizer, "one", add_eos=True),
        encode_pair(tokenizer, "Question: 2\n", "two"),
        encode_pair(tokenizer, "Question: 3\n", "three"),
        encode_messages(tokenizer, TALK),
        encode_text(tokenizer, "four<|im_end|>"),
        encode_text(tokenizer, "five", add_eos=True),
    ]


def test_of_a_text_all_is_trained_but_the_first_token(tokenizer: Any) -> None:
    (row,) = encoded(tokenizer, TextRecord("SELECT count(*) FROM orders"))
    assert row.labels == [IGNORE, *row.ids[1:]]


def test_of_a_pair_the_completion_is_trained_with_its_end(tokenizer: Any) -> None:
    (row,) = encoded(tokenizer, PairRecord("How many?\n", "Four."))
    assert trained_text(tokenizer, row) == "Four.<|im_end|>"
    assert tokenizer.decode(row.ids) == "How many?\nFour.<|im_end|>"


def test_of_a_chat_the_answers_are_trained_each_with_its_end(tokenizer: Any) -> None:
    (row,) = encoded(tokenizer, ChatRecord(TALK))
    assert trained_text(tokenizer, row) == "Four.<|im_end|>One.<|im_end|>"


@pytest.mark.parametrize("record", [PairRecord("How many?\n", "Four."), ChatRecord(TALK)])
def test_prompts_are_trained_where_asked(tokenizer: Any, record: Record) -> None:
    (row,) = encoded(tokenizer, record, train_on_inputs=True)
    assert row.labels == [IGNORE, *row.ids[1:]]


@pytest.mark.parametrize(
    "text", ["ends already<|im_end|>", "ends already<|im_end|>\n", "does not end", "", "<|im_end|>"]
)
def test_every_text_ends_once(tokenizer: Any, text: str) -> None:
    (row,) = encoded(tokenizer, TextRecord(text))
    assert row.ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(row.ids) == text if "<|im_end|>" in text else text + "<|im_end|>"


def test_nothing_gives_nothing(tokenizer: Any) -> None:
    assert encoded(tokenizer) == []
