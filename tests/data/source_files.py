"""What the tests of sources share: files of rows, and reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from whet.data.stream import RowStream, open_rows
from whet.errors import DataError


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def all_rows(stream: RowStream, size: int = 1000) -> list[dict[str, Any]]:
    return [row for batch in stream.batches(size) for row in batch.rows]


def read(path: object, **arguments: Any) -> list[dict[str, Any]]:
    return all_rows(open_rows(path, **arguments))  # type: ignore[arg-type]


def refused(path: object, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **arguments)
    return str(caught.value)
