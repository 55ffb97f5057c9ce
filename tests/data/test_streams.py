"""Streams of rows: batches, slices, several files, fingerprints, bounded memory; columnar files; names on the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from source_files import all_rows, jsonl, read, refused, write

from whet.data import lines, stream
from whet.data.stream import open_rows, rows_of
from whet.errors import DataError

ROWS: list[dict[str, Any]] = [{"q": f"question {i}", "a": i, "tags": ["x", str(i)]} for i in range(2500)]


def made(folder: Path, kind: str) -> Path:
    table = pyarrow.Table.from_pylist(ROWS)
    file = folder / f"rows.{kind}"
    if kind == "jsonl":
        jsonl(file, ROWS)
    elif kind == "json":
        write(file, json.dumps(ROWS))
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, file, row_group_size=700)
    elif kind == "feather":
        pyarrow.feather.write_feather(table, file)
    elif kind == "saved":
        datasets.Dataset(table).save_to_disk(file)
    else:
        new = pyarrow.ipc.new_stream if kind == "stream.arrow" else pyarrow.ipc.new_file
        with new(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=1300)
    return file


KINDS = ["jsonl", "json", "parquet", "feather", "arrow", "stream.arrow", "saved"]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryFormat:
    def test_batches_progress_and_a_second_reading(self, tmp_path: Path, kind: str) -> None:
        source = open_rows(made(tmp_path, kind))
        assert source.columns == ["q", "a", "tags"]
        for size in (1000, 7, 10_000):
            batches = list(source.batches(size))
            assert [row for batch in batches for row in batch.rows] == ROWS
            assert all(len(batch.rows) == size for batch in batches[:-1])
            assert [batch.first for batch in batches] == list(range(1, 2501, size))
            done = [batch.done for batch in batches]
            assert done == sorted(done) and 0 < done[-1] <= (source.size or 0)

    @pytest.mark.parametrize(
        ("split", "expected"),
        [
            ("train[:5]", range(5)),
            ("train[990:1010]", range(990, 1010)),
            ("train[2400:]", range(2400, 2500)),
            ("train[-4:]", range(2496, 2500)),
            ("train[:-2490]", range(10)),
            ("train[50%:51%]", range(1250, 1275)),
            ("train[:9999]", range(2500)),
        ],
    )
    def test_slices(self, tmp_path: Path, kind: str, split: str, expected: range) -> None:
        source = open_rows(made(tmp_path, kind), split=split)
        batches = list(source.batches(100))
        assert [row["a"] for batch in batches for row in batch.rows] == list(expected)
        assert batches[0].first == expected[0] + 1, "messages name the row of the source"
        assert 0 < batches[-1].done <= (source.size or 0)

    def test_a_slice_without_rows(self, tmp_path: Path, kind: str) -> None:
        assert "the slice holds no rows" in refused(made(tmp_path, kind), split="train[5000:]")

    def test_fingerprints(self, tmp_path: Path, kind: str) -> None:
        file = made(tmp_path, kind)
        first = open_rows(file).fingerprint()
        assert open_rows(file).fingerprint() == first
        assert open_rows(file, split="train[:5]").fingerprint() != first
        if file.is_file():
            moved = file.rename(tmp_path / f"other.{kind}")
            assert open_rows(moved).fingerprint() == first, "a moved file is the same data"
            assert open_rows(moved, damaged="skip").fingerprint() != first
            other = moved.rename(tmp_path / "as.txt")
            if kind == "jsonl":
                assert open_rows(other).fingerprint() != first, "the same bytes as plain text are other rows"


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", ROWS)
    source = open_rows(file)
    first = source.fingerprint()
    jsonl(file, [*ROWS[:-1], {**ROWS[-1], "a": 2498}])
    assert source.fingerprint() != first
    one, other = rows_of(ROWS), rows_of([*ROWS[:-1], {**ROWS[-1], "a": 2498}])
    assert one.fingerprint() == rows_of(list(ROWS)).fingerprint() != other.fingerprint()


def test_a_slice_of_lines_stops_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.jsonl", jsonl(tmp_path / "b.jsonl", ROWS).read_bytes() + b"oops\n")
    monkeypatch.setattr(lines, "BLOCK", 1000)
    assert len(read(file, split="train[:100]")) == 100, "the damaged line at the end is not reached"


def test_long_rows_make_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH_BYTES", 100_000)
    monkeypatch.setattr(lines, "BLOCK", 10_000)
    source = open_rows(jsonl(tmp_path / "a.jsonl", [{"a": "x" * 30_000}] * 20))
    batches = list(source.batches())
    assert sum(len(batch.rows) for batch in batches) == 20 and max(len(batch.rows) for batch in batches) <= 5
    assert [batch.first for batch in batches][:2] == [1, 1 + len(batches[0].rows)]


class TestSeveralFiles:
    def test_columns_are_joined_and_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        jsonl(tmp_path / "a.jsonl", [{"q": "1", "a": "2"}])
        write(tmp_path / "b.csv", "q,hint\n3,4\n")
        source = open_rows(tmp_path)
        assert source.columns == ["q", "a", "hint"]
        assert all_rows(source) == [{"q": "1", "a": "2", "hint": None}, {"q": "3", "a": None, "hint": "4"}]
        assert "a.jsonl: the column hint of the other files is not there" in capsys.readouterr().err

    def test_progress_and_numbers_go_on(self, tmp_path: Path) -> None:
        for i in range(3):
            jsonl(tmp_path / f"{i}.jsonl", ROWS[i * 10 : i * 10 + 10])
        source = open_rows(tmp_path, split="train[5:25]")
        assert [row["a"] for row in all_rows(source)] == list(range(5, 25))
        whole = list(open_rows(tmp_path).batches(10))
        assert [batch.first for batch in whole] == [1, 11, 21]
        assert whole[-1].done == sum(file.stat().st_size for file in tmp_path.iterdir())

    def test_globs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        jsonl(tmp_path / "data" / "b.jsonl", [{"a": 2}])
        jsonl(tmp_path / "data" / "a.jsonl", [{"a": 1}])
        jsonl(tmp_path / "data" / "deep" / "er" / "c.jsonl", [{"a": 3}])
        write(tmp_path / "data" / "c.csv", "a\n9\n")
        assert read(tmp_path / "data" / "*.jsonl") == [{"a": 1}, {"a": 2}]
        assert read(f"{tmp_path}/data/**/*.jsonl") == [{"a": 1}, {"a": 2}, {"a": 3}]
        assert read(f"{tmp_path}/data/[a].jsonl") == [{"a": 1}]
        monkeypatch.chdir(tmp_path)
        assert read("data/?.csv") == [{"a": "9"}]
        assert read("data", data_files="**/*.jsonl") == [{"a": 1}, {"a": 2}, {"a": 3}]
        assert "data/*.xml: no file matches" in refused("data/*.xml")
        jsonl(tmp_path / "odd[1].jsonl", [{"a": 7}])
        assert read("odd[1].jsonl") == [{"a": 7}], "a file of that very name comes first"

    def test_an_empty_one_is_named(self, tmp_path: Path) -> None:
        jsonl(tmp_path / "a.jsonl", ROWS[:1])
        write(tmp_path / "b.jsonl", "")
        assert "b.jsonl: the file is empty" in refused(tmp_path)


class TestRowsInMemory:
    def test_a_list(self) -> None:
        rows: list[dict[str, Any]] = [{"a": 1}, {"b": 2}]
        source = rows_of(rows)
        assert source.columns == ["a", "b"] and source.size == 2
        assert all_rows(source) == [{"a": 1, "b": None}, {"a": None, "b": 2}]
        assert rows == [{"a": 1}, {"b": 2}], "the caller's rows stay as they are"

    def test_a_dataset_in_any_format(self) -> None:
        rows = datasets.Dataset.from_list(ROWS).with_format("numpy").shuffle(seed=1)
        assert sorted(row["a"] for row in all_rows(rows_of(rows))) == list(range(2500))
        assert isinstance(all_rows(rows_of(rows))[0]["a"], int)

    def test_an_iterable_dataset(self) -> None:
        source = rows_of(datasets.Dataset.from_list(ROWS).to_iterable_dataset())
        assert all_rows(source) == ROWS == all_rows(source) and source.size is None

    def test_nothing(self) -> None:
        with pytest.raises(DataError, match="holds no rows"):
            rows_of([])


class TestByName:
    """The hub's library on a local folder: the same calls, without a network."""

    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        monkeypatch.setattr(stream, "find_files", lambda *_: None)
        jsonl(tmp_path / "named" / "train.jsonl", ROWS)
        jsonl(tmp_path / "named" / "test.jsonl", ROWS[:7])

    @pytest.mark.parametrize("streaming", [False, True])
    def test_splits(self, tmp_path: Path, streaming: bool) -> None:
        path = tmp_path / "named"
        assert read(path, streaming=streaming) == ROWS
        assert len(read(path, split="test", streaming=streaming)) == 7
        assert [row["a"] for row in read(path, split="train[10:20]", streaming=streaming)] == list(range(10, 20))
        assert len(read(path, split="train[:10%]", streaming=streaming)) == 250
        assert 'the hub gave no data set: Unknown split "dev"' in refused(path, split="dev", streaming=streaming) or (
            streaming and "Bad split: dev" in refused(path, split="dev", streaming=streaming)
        )

    def test_fingerprints(self, tmp_path: Path) -> None:
        path = tmp_path / "named"
        first = open_rows(path).fingerprint()
        assert open_rows(path).fingerprint() == first != open_rows(path, split="test").fingerprint()
        assert open_rows(path, streaming=True).fingerprint() == open_rows(path, streaming=True).fingerprint()


def test_saved_folders_with_splits(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=rows, test=rows.select(range(5))).save_to_disk(tmp_path / "saved")
    assert len(read(tmp_path / "saved", split="test")) == 5
    assert 'no split "dev"' in refused(tmp_path / "saved", split="dev")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream.arrow"])
def test_damaged_columnar_files(tmp_path: Path, kind: str) -> None:
    file = made(tmp_path, kind)
    data = file.read_bytes()
    assert "damaged, or no" in refused(write(file, data[: len(data) // 2]))
    assert "damaged, or no" in refused(write(file, b"hello " * 100))


MEASURED = """
import sys, tracemalloc
from whet.data.stream import open_rows
tracemalloc.start()
source, rows = open_rows(sys.argv[1]), 0
for batch in source.batches():
    rows += len(batch.rows)
print(rows, tracemalloc.get_traced_memory()[1])
"""


@pytest.mark.parametrize("kind", ["jsonl", "csv", "json", "txt"])
def test_a_large_file_takes_little_memory(tmp_path: Path, kind: str) -> None:
    """30 MB; read whole, its rows would take more than 60 MB."""
    row = {"question": "how many? " * 10, "answer": "x" * 150}
    count = 30_000_000 // 300
    line = {"jsonl": json.dumps(row), "csv": ",".join(row.values()), "json": json.dumps(row), "txt": "x" * 300}[kind]
    file = tmp_path / f"large.{kind}"
    with file.open("w", encoding="utf-8") as opened:
        opened.write({"csv": "question,answer\n", "json": "["}.get(kind, ""))
        for _ in range(count // 100 - 1):
            opened.write((line + (",\n" if kind == "json" else "\n")) * 100)
        opened.write(line + ("]" if kind == "json" else "\n"))
    done = subprocess.run([sys.executable, "-c", MEASURED, str(file)], capture_output=True, text=True, check=True)
    rows, peak = map(int, done.stdout.split())
    assert rows == (count // 100 - 1) * 100 + 1
    assert peak < 25_000_000


def test_real_files(shared: Path) -> None:
    dev = shared / "data" / "wikisql" / "dev.jsonl"
    with dev.open(encoding="utf-8") as opened:
        assert read(dev) == [json.loads(line) for line in opened]
    for name in ("alpaca", "dpo", "gsm8k", "sentiment", "titanic"):
        assert len(open_rows(shared / "data" / name).columns) >= 2, name
