"""Local files of every kind, slices, folders; a damaged file is named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from whet.data.sources import read_rows
from whet.errors import DataError

ROWS = [{"q": f"question {i}", "a": i, "tags": ["x"]} for i in range(20)]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def jsonl(path: Path, rows: list[dict[str, object]] = ROWS) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def refused(path: object, **arguments: object) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_same_rows_from_every_format(tmp_path: Path) -> None:
    rows = [{"q": row["q"], "a": str(row["a"])} for row in ROWS]
    table = datasets.Dataset.from_list(rows)
    jsonl(tmp_path / "a.jsonl", rows)
    write(tmp_path / "b.json", json.dumps(rows))
    write(tmp_path / "c.json", json.dumps({"version": 1, "data": rows}))
    jsonl(tmp_path / "lines.json", rows)
    table.to_csv(tmp_path / "d.csv", index=False)
    table.to_csv(tmp_path / "e.tsv", index=False, sep="\t")
    table.to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    table.to_parquet(tmp_path / "f.parquet")
    table.save_to_disk(tmp_path / "saved")
    for name in ("a.jsonl", "b.json", "c.json", "lines.json", "d.csv", "e.tsv", "semicolons.csv", "f.parquet", "saved"):
        assert read_rows(tmp_path / name).to_list() == rows, name
    assert read_rows(write(tmp_path / "noname", (tmp_path / "d.csv").read_bytes()), file_type="csv").to_list() == rows


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", range(20)),
        ("train[:5]", range(5)),
        ("train[5:]", range(5, 20)),
        ("train[3:7]", range(3, 7)),
        ("train[-4:]", range(16, 20)),
        ("train[:10%]", range(2)),
        ("train[50%:75%]", range(10, 15)),
        ("train[:1000]", range(20)),
    ],
)
def test_slices_as_in_datasets(tmp_path: Path, split: str, expected: range) -> None:
    file = jsonl(tmp_path / "rows.jsonl")
    assert read_rows(file, split=split)["a"][:] == list(expected)
    by_datasets = datasets.load_dataset("json", data_files=str(file), split=split, cache_dir=str(tmp_path / "cache"))
    assert by_datasets["a"][:] == list(expected)


@pytest.mark.parametrize("split", ["train[", "train[a:b]", "train+test", ""])
def test_a_split_that_is_not_understood(tmp_path: Path, split: str) -> None:
    assert "is not understood" in refused(jsonl(tmp_path / "rows.jsonl"), split=split)


def test_an_empty_slice(tmp_path: Path) -> None:
    assert "holds no rows" in refused(jsonl(tmp_path / "rows.jsonl"), split="train[30:]")


def test_csv_cells_stay_as_they_are(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", '\ufeffcode,age,answer\n007,22,NA\n12,,"two\nlines, one cell"\n')
    assert read_rows(file).to_list() == [
        {"code": "007", "age": "22", "answer": "NA"},
        {"code": "12", "age": None, "answer": "two\nlines, one cell"},
    ]


def test_titanic_with_its_gaps(shared: Path) -> None:
    rows = read_rows(shared / "data" / "titanic" / "titanic.csv")
    assert len(rows) == 891 and "survived" in rows.column_names
    assert sum(age is None for age in rows["age"]) == 177


def test_a_slice_of_wikisql(shared: Path) -> None:
    rows = read_rows(shared / "data" / "wikisql" / "train.jsonl", split="train[:50]")
    assert len(rows) == 50 and rows.column_names == ["question", "context", "answer"]


def test_columns_of_all_rows_count(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"a": 1}\n\n{"b": "x"}\n')
    assert read_rows(file).to_list() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', "a.jsonl:3: the line is damaged"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "a.jsonl:2: the line is no JSON object"),
        ("a.jsonl", '{"a": 1}\n{"a": "x"}\n', 'a.jsonl: row 2: the column "a" holds str here'),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl:2: not UTF-8"),
        ("a.jsonl", "\n\n", "the file is empty"),
        ("a.jsonl", "", "the file is empty"),
        ("a.json", "", "the file is empty"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", '[{"a": 1},\n {"a": }]', "a.json:2: damaged JSON"),
        ("a.json", '[{"a": 1}, 5]', "entry 2 is no JSON object"),
        ("a.json", "5", "holds no rows"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "\n\n", "the file is empty"),
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "a.csv:3: the line is damaged"),
        ("a.csv", b"a,b\n\xff\xfe,2\n", "not UTF-8"),
        ("a.parquet", "PAR1 not really", "damaged, or no parquet file"),
        ("a.xyz", "hello", "the format .xyz is not known"),
        ("a.xls", "hello", "save it as .xlsx"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    file = write(tmp_path / name, content)
    message = refused(file)
    assert str(file) in message and words in message


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    jsonl(tmp_path / "rows.jsonl")
    assert f'did you mean "{tmp_path / "rows.jsonl"}"?' in refused(tmp_path / "row.jsonl")
    assert "does not exist either" in refused(tmp_path / "no" / "rows.jsonl")
    assert "no such file" in refused("rows.jsonl")


class TestFolders:
    def test_files_of_the_split(self, tmp_path: Path) -> None:
        jsonl(tmp_path / "data" / "train-00000.jsonl", ROWS[:3])
        jsonl(tmp_path / "data" / "train-00001.jsonl", ROWS[3:5])
        jsonl(tmp_path / "data" / "test.jsonl", ROWS[5:])
        assert read_rows(tmp_path)["a"][:] == [0, 1, 2, 3, 4]
        assert read_rows(tmp_path, split="test[:2]")["a"][:] == [5, 6]
        assert 'no file for the split "dev"' in refused(tmp_path, split="dev")

    def test_train_never_takes_another_splits_file(self, tmp_path: Path) -> None:
        jsonl(tmp_path / "test.jsonl")
        assert 'no file for the split "train"' in refused(tmp_path)
        jsonl(tmp_path / "part1.jsonl", ROWS[:2])
        assert len(read_rows(tmp_path)) == 2

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        assert "no file of examples" in refused(tmp_path)

    def test_values_that_no_dataset_can_hold_together(self, tmp_path: Path) -> None:
        jsonl(tmp_path / "a.jsonl", [{"x": 1}])
        jsonl(tmp_path / "b.jsonl", [{"x": "one"}])
        assert 'row 2: the column "x" holds str here' in refused(tmp_path)

    def test_notes_beside_the_data_are_no_rows(self, tmp_path: Path) -> None:
        jsonl(tmp_path / "part.jsonl", ROWS[:2])
        write(tmp_path / "README.md", "# about\n")
        write(tmp_path / "LICENSE.txt", "as you like\n")
        write(tmp_path / "words.txt", "a line\n")
        write(tmp_path / ".cache" / "old.jsonl", '{"q": "old"}\n')
        assert len(read_rows(tmp_path)) == 2

    def test_texts_alone(self, tmp_path: Path) -> None:
        write(tmp_path / "README.md", "# about\n")
        write(tmp_path / "words.txt", "one\r\n\r\n two \r\n")
        assert read_rows(tmp_path).to_list() == [{"text": "one"}, {"text": " two "}]

    def test_data_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        jsonl(tmp_path / "one.jsonl", ROWS[:1])
        jsonl(tmp_path / "two.jsonl", ROWS[1:2])
        assert len(read_rows(tmp_path, data_files="*.jsonl")) == 2
        assert len(read_rows(tmp_path, data_files=["two.jsonl"])) == 1
        assert "three.jsonl: no such file" in refused(tmp_path, data_files=["three.jsonl"])
        monkeypatch.chdir(tmp_path)
        assert len(read_rows("json", data_files="one.jsonl", file_type="jsonl")) == 1
        assert len(read_rows("json", data_files="one.jsonl")) == 1
        assert len(read_rows("json", data_files=str(tmp_path / "*.jsonl"))) == 2


def test_a_name_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = refused("nobody/no-such-data-set")
    assert message.startswith("nobody/no-such-data-set: no file or folder of that name here")
