"""Real files of every format with bytes changed, doubled, or cut away: rows or a DataError, never another error."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from source_files import read, write

from whet.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"question": f'what is "{i}", 中文 é\nnow?', "answer": f"SELECT {i}", "n": str(i)} for i in range(40)
]
SIGNS = [b'"', b"\n", b"\r", b"\0", b"\xff", b",", b"\t", b"{", b"}", b"[", b"]", b"\\ud83d", b"\\", b"\xef\xbb\xbf"]
TRIES = 40


def _delimited(delimiter: str) -> str:
    made = io.StringIO(newline="")
    writer = csv.writer(made, delimiter=delimiter)
    writer.writerow(ROWS[0])
    writer.writerows(row.values() for row in ROWS)
    return made.getvalue()


def _columnar(kind: str) -> bytes:
    table, made = pyarrow.Table.from_pylist(ROWS), io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, made)
    else:
        with (pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream)(made, table.schema) as writer:
            writer.write_table(table)
    return made.getvalue()


def _workbook() -> bytes:
    book, made = openpyxl.Workbook(), io.BytesIO()
    book.active.append(list(ROWS[0]))
    for row in ROWS:
        book.active.append(list(row.values()))
    book.save(made)
    return made.getvalue()


def _archive(text: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", text)
    return made.getvalue()


LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FILES = {
    "a.jsonl": LINES,
    "a.json": json.dumps(ROWS, ensure_ascii=False, indent=1).encode(),
    "a.csv": _delimited(",").encode(),
    "wide.tsv": _delimited("\t").encode("utf-16"),
    "a.txt": LINES,
    "a.parquet": _columnar("parquet"),
    "file.arrow": _columnar("file"),
    "stream.arrow": _columnar("stream"),
    "a.xlsx": _workbook(),
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.zip": _archive(LINES),
}


def changed(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            found[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            found[at:at] = rng.choice(SIGNS)
        elif kind == 2:
            del found[at : at + rng.randint(1, 50)]
        elif kind == 3:
            found[at:at] = found[at : at + rng.randint(1, 200)]
        elif rng.random() < 0.2:
            del found[at:]
    return bytes(found)


@pytest.mark.parametrize("name", FILES)
def test_only_data_errors(tmp_path: Path, name: str) -> None:
    assert len(read(write(tmp_path / name, FILES[name]))) in (40, len(LINES.splitlines()))
    rng = random.Random(name)
    refusals = 0
    for _ in range(TRIES):
        file = write(tmp_path / name, changed(FILES[name], rng))
        for damaged in ("error", "skip"):
            try:
                assert all(isinstance(row, dict) for row in read(file, damaged=damaged))
            except DataError as error:
                refusals += 1
                assert str(file) in str(error)
    assert refusals or name == "a.txt", "nothing was damaged"
