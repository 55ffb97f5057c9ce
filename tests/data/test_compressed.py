"""Compressed files and archives, whole and damaged."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import openpyxl
import pytest
from source_files import all_rows, read, refused, write

from whet.data.stream import open_rows
from whet.errors import MissingDependency

ROWS = [{"q": f"question {i}", "a": "x" * (i % 50)} for i in range(3000)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", COMPRESS)
class TestCompressed:
    def test_lines(self, tmp_path: Path, suffix: str) -> None:
        file = write(tmp_path / f"a.jsonl{suffix}", COMPRESS[suffix](TEXT))
        stream = open_rows(file)
        batches = list(stream.batches())
        assert [row for batch in batches for row in batch.rows] == ROWS
        assert batches[-1].done == stream.size == file.stat().st_size

    def test_columns(self, tmp_path: Path, suffix: str) -> None:
        datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
        packed = write(tmp_path / f"b.parquet{suffix}", COMPRESS[suffix]((tmp_path / "a.parquet").read_bytes()))
        assert read(packed) == ROWS

    def test_damaged(self, tmp_path: Path, suffix: str) -> None:
        whole = COMPRESS[suffix](TEXT)
        for name, data in {"cut": whole[: len(whole) // 2], "other": b"not compressed at all"}.items():
            file = write(tmp_path / f"{name}.jsonl{suffix}", data)
            assert str(file) in refused(file) and "the compressed file is damaged" in refused(file)
            assert "the compressed file is damaged" in refused(file, damaged="skip")

    def test_the_format_is_named_where_no_suffix_says_it(self, tmp_path: Path, suffix: str) -> None:
        file = write(tmp_path / f"rows{suffix}", COMPRESS[suffix](TEXT))
        assert "the format" in refused(file) and "is not known" in refused(file)
        assert read(file, file_type="jsonl") == ROWS


class TestZip:
    @staticmethod
    def made(path: Path, **members: bytes) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name.replace("__dot__", "."), data)
        return path

    def test_several_members(self, tmp_path: Path) -> None:
        file = self.made(
            tmp_path / "a.zip",
            **{
                "b.csv": b"q,a\n1,2\n",
                "a/a.jsonl": TEXT,
                "__MACOSX/a.jsonl": b"x",
                ".DS_Store": b"x",
                "notes.txt": b"x",
            },
        )
        stream = open_rows(file)
        batches = list(stream.batches())
        assert [row for batch in batches for row in batch.rows] == [*ROWS, {"q": "1", "a": "2"}]
        assert batches[-1].done == stream.size

    def test_a_workbook_and_texts(self, tmp_path: Path) -> None:
        book = openpyxl.Workbook()
        book.active.append(["a"])
        book.active.append([1])
        book.save(tmp_path / "a.xlsx")
        assert read(self.made(tmp_path / "a.zip", **{"a.xlsx": (tmp_path / "a.xlsx").read_bytes()})) == [{"a": 1}]
        assert read(self.made(tmp_path / "b.zip", **{"a.txt": b"one\ntwo\n"})) == [{"text": "one"}, {"text": "two"}]

    def test_a_damaged_line_names_the_member(self, tmp_path: Path) -> None:
        file = self.made(tmp_path / "a.zip", **{"data/a.jsonl": b'{"a": 1}\noops\n'})
        assert f"{file}/data/a.jsonl:2: the line is damaged" in refused(file)

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        assert "the archive is empty" in refused(self.made(tmp_path / "a.zip"))
        assert "no file of rows in the archive, but a.exe" in refused(self.made(tmp_path / "b.zip", **{"a.exe": b"x"}))
        packed = self.made(tmp_path / "d.zip", **{"a.jsonl.gz": gzip.compress(TEXT), "b.zip": b"x"})
        assert "no file of rows in the archive, but a.jsonl.gz, b.zip" in refused(packed)
        assert "unpack it first" in refused(write(tmp_path / "a.tar.gz", gzip.compress(TEXT)))
        assert "compressed file is damaged" in refused(write(tmp_path / "c.zip", b"PK not really"))

    def test_a_changed_byte(self, tmp_path: Path) -> None:
        file = self.made(tmp_path / "a.zip", **{"a.jsonl": TEXT})
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        assert "damaged" in refused(write(file, bytes(data)))

    def test_locked(self, tmp_path: Path) -> None:
        file = self.made(tmp_path / "a.zip", **{"a.jsonl": TEXT})
        data = file.read_bytes()
        central = data.index(b"PK\x01\x02")
        locked = bytearray(data)
        locked[6] |= 1  # bit 0 of the general purpose flags: encrypted
        locked[central + 8] |= 1
        assert "locked with a password" in refused(write(file, bytes(locked)))


def test_zstandard_needs_its_package(tmp_path: Path) -> None:
    magic = write(tmp_path / "a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00")
    if importlib.util.find_spec("compression") or importlib.util.find_spec("zstandard"):
        assert "damaged" in refused(magic)
    else:
        with pytest.raises(MissingDependency, match="pip install zstandard"):
            read(magic)


@pytest.mark.parametrize("squeeze", [gzip.compress, lzma.compress])
def test_titanic_compressed(tmp_path: Path, shared: Path, squeeze: Callable[[bytes], bytes]) -> None:
    plain = shared / "data" / "titanic" / "titanic.csv"
    suffix = ".gz" if squeeze is gzip.compress else ".xz"
    stream = open_rows(write(tmp_path / f"titanic.csv{suffix}", squeeze(plain.read_bytes())))
    assert all_rows(stream) == read(plain)
