"""Worker processes give what one process gives."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from transformers import AutoTokenizer

from whet.data import parallel
from whet.data.records import ChatRecord, PairRecord, PreferenceRecord, Record, TextRecord
from whet.data.tokens import RecordEncoder
from whet.errors import DataError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")


@pytest.fixture
def encode(tiny_llama_dir):
    return RecordEncoder(AutoTokenizer.from_pretrained(tiny_llama_dir))


def batches(count: int, size: int = 40) -> list[list[Record]]:
    def record(i: int) -> Record:
        if i % 5 == 0:
            return PairRecord(f"Q <|im_end|> {i}:", f"分类 {i}", ((2, 12),))
        if i % 7 == 0:
            return TextRecord(f"text {i} " * (i % 11))
        answer = {"role": "assistant", "content": f"answer <|im_start|> {i}"}
        return ChatRecord([{"role": "user", "content": "fox " * (i % 13)}, answer])

    return [[record(i) for i in range(start, start + size)] for start in range(0, count * size, size)]


def test_workers_give_the_same_in_the_same_order(encode):
    work = batches(30)
    alone = [encode(records) for records in work]
    for workers in (1, 3):
        found = list(parallel._by_workers(encode, iter(work), workers))
        assert len(found) == len(alone)
        for one, other in zip(alone, found, strict=True):
            assert np.array_equal(one.ids, other.ids) and np.array_equal(one.offsets, other.offsets)
            assert (one.spans, one.literal) == (other.spans, other.literal)
    many = [rows.ids.sum() for rows in parallel.encode_in_order(encode, iter(work))]
    assert many == [rows.ids.sum() for rows in alone]


def test_an_error_comes_when_its_batch_does(encode):
    work = [*batches(3), [PreferenceRecord([], [], [])], *batches(2)]
    found = parallel._by_workers(encode, iter(work), 2)
    assert [len(next(found)) for _ in range(3)] == [40] * 3
    with pytest.raises(DataError, match="preference") as raised:
        next(found)
    assert raised.value.expected.startswith("texts, pairs")


def test_few_rows_need_no_workers(encode, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a pool was made")

    monkeypatch.setattr(parallel, "_by_workers", refuse)
    assert len(list(parallel.encode_in_order(encode, iter(batches(parallel.ALONE, 2))))) == parallel.ALONE
    assert list(parallel.encode_in_order(encode, iter([]))) == []
