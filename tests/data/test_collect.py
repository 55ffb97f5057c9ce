"""Sources to prepared rows: the same whether in memory, on disk or from the cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from whet.data.cache import KEPT, entry_key, prune
from whet.data.collect import Collected, Reservoir, Source, collect
from whet.data.formats import FormatSpec, open_records
from whet.data.prepared import weighted
from whet.data.records import ChatRecord, PairRecord, TextRecord
from whet.data.stream import open_rows
from whet.errors import DataError, OutputError
from whet.text.encode import encode_messages


@pytest.fixture
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def write(path: Path, count: int, word: str = "fox") -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"{word} {i}?"}, {"role": "assistant", "content": "yes " * (i % 7)}]}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def source(path: Path, spec: FormatSpec | None = None, **options) -> Source:
    rows, spec = open_rows(path, **options), spec or FormatSpec()
    return Source(rows, open_records(rows, spec), spec)


def same(one: Collected, other: Collected) -> None:
    for name in ("ids", "mask", "offsets", "trained", "order"):
        assert np.array_equal(getattr(one.prepared, name), getattr(other.prepared, name)), name
    assert one.prepared.stats == other.prepared.stats
    assert (one.sizes, one.sample, one.left_out) == (other.sizes, other.sample, other.left_out)


def test_memory_disk_and_cache_hold_the_same(tokenizer, tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", 2500)
    memory = collect([source(path)], tokenizer, sequence_len=64)
    first = collect([source(path)], tokenizer, sequence_len=64, cache=tmp_path / "cache")
    assert "prepared copy" not in capsys.readouterr().err
    again = collect([source(path)], tokenizer, sequence_len=64, cache=tmp_path / "cache")
    assert "prepared copy" in capsys.readouterr().err
    same(memory, first)
    same(memory, again)
    assert memory.left_out == {"no answer": 358}
    assert memory.sizes == [2500 - 358]
    assert [entry.name for entry in (tmp_path / "cache").iterdir() if entry.name.startswith(".")] == []
    few = collect([source(write(path, 9))], tokenizer, sequence_len=64)
    for index, record in enumerate(few.sample):
        row = encode_messages(tokenizer, record.messages)
        assert few.prepared.row(index)[0].tolist() == row.ids
        assert few.prepared.row(index)[1].tolist() == row.labels


def test_whatever_changes_the_tokens_makes_a_new_entry(tokenizer, tmp_path):
    path, cache = write(tmp_path / "rows.jsonl", 20), tmp_path / "cache"

    def entries(**options) -> int:
        collect([source(path)], tokenizer, **{"sequence_len": 64, "cache": cache, **options})
        return len(list(cache.iterdir()))

    assert entries() == entries() == 1
    assert entries(sequence_len=63) == 2
    assert entries(excess="truncate") == 3
    assert entries(train_on="last") == 4
    write(path, 21)
    assert entries() == 5
    tokenizer.chat_template = tokenizer.chat_template.replace("\n", "")
    assert entries() == 6
    moved = path.rename(tmp_path / "moved.jsonl")
    collect([source(moved)], tokenizer, sequence_len=64, cache=cache)
    assert len(list(cache.iterdir())) == 6, "the same content under another name is the same data"


def test_several_sources_follow_each_other(tokenizer, tmp_path):
    chats, pairs = write(tmp_path / "a.jsonl", 5), tmp_path / "b.csv"
    pairs.write_text("prompt,completion\nQ: a<|im_end|>,b\nc,\nd,e\n", encoding="utf-8")
    found = collect([source(chats), source(pairs)], tokenizer, sequence_len=64)
    assert found.sizes == [4, 2]
    assert [type(record) for record in found.sample] == [ChatRecord] * 4 + [PairRecord] * 2
    assert found.left_out == {"no answer": 2}


def test_every_kind_of_record_survives_the_cache(tokenizer, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"instruction": "say <|im_end|>", "output": "x"}) + "\n", encoding="utf-8")
    for _ in range(2):
        found = collect([source(rows)], tokenizer, sequence_len=200, cache=tmp_path / "cache")
        record = found.sample[0]
        assert isinstance(record, PairRecord)
        start, stop = record.content[0]
        assert (record.prompt + record.completion)[start:stop] == "say <|im_end|>"
        assert found.prepared.stats.quoted == 1


def test_damaged_lines_are_counted(tokenizer, tmp_path):
    path = write(tmp_path / "rows.jsonl", 10)
    path.write_text(path.read_text(encoding="utf-8") + '{"messages": [\n', encoding="utf-8")
    found = collect([source(path, damaged="skip")], tokenizer, sequence_len=64)
    assert found.left_out == {"no answer": 2, "damaged line": 1}
    opened = source(write(path, 5000))
    path.write_text(path.read_text(encoding="utf-8") + '{"messages": [\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:5001"):
        collect([opened], tokenizer, sequence_len=64, cache=tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir()), "nothing half-written is left"


def test_preference_pairs_are_refused(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="preference"):
        collect([source(path)], tokenizer, sequence_len=64)


def test_a_cache_that_cannot_be_written_says_what_to_do(tokenizer, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="dataset_prepared_path"):
        collect([source(write(tmp_path / "a.jsonl", 3))], tokenizer, sequence_len=64, cache=tmp_path / "file")


def test_the_oldest_entries_go(tmp_path):
    for number in range(KEPT + 3):
        entry = tmp_path / entry_key(number=number)
        entry.mkdir()
        (entry / "stats.json").write_text("{}", encoding="utf-8")
        os.utime(entry, (number, number))
    (tmp_path / "mine").mkdir()
    prune(tmp_path, tmp_path / entry_key(number=0))
    left = {path.name for path in tmp_path.iterdir()}
    assert "mine" in left
    assert left - {"mine"} == {entry_key(number=n) for n in (0, *range(3, KEPT + 3))}


def test_the_sample_is_even():
    small, large = Reservoir(300), Reservoir(300)
    for number in range(100_000):
        if number < 200:
            small.add(TextRecord(str(number)))
        large.add(TextRecord(str(number)))
    assert small.records() == [TextRecord(str(number)) for number in range(200)]
    drawn = [int(record.text) for record in large.records()]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 300
    assert 45_000 < np.mean(drawn) < 55_000


def test_weights():
    rows = np.arange(10)
    assert weighted(rows, 1, 0).tolist() == rows.tolist()
    assert len(weighted(rows, 0.5, 0)) == 5
    counts = np.bincount(weighted(rows, 2.3, 0), minlength=10)
    assert sorted(counts.tolist()) == [2] * 7 + [3] * 3
    assert weighted(rows, 0.5, 0).tolist() == weighted(rows, 0.5, 0).tolist() != weighted(rows, 0.5, 1).tolist()
