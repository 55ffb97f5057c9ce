"""Stands in for whet.data.stream until it is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import datasets


@dataclass(frozen=True)
class Batch:
    rows: list[dict[str, Any]]
    first: int
    done: int = 0


class RowStream(Protocol):
    name: str
    columns: list[str]

    def batches(self, size: int = 1000) -> Iterator[Batch]: ...


class _InMemory:
    def __init__(self, rows: datasets.Dataset) -> None:
        self.name, self.columns, self._rows = "the data set", list(rows.column_names), rows

    def batches(self, size: int = 1000) -> Iterator[Batch]:
        first = 1
        for batch in self._rows.with_format("arrow").iter(batch_size=size):
            found = batch.to_pylist()
            yield Batch(found, first)
            first += len(found)


class _Listed:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.name, self._rows = "the rows", rows
        self.columns = list(dict.fromkeys(name for row in rows[:1000] for name in row))

    def batches(self, size: int = 1000) -> Iterator[Batch]:
        for first in range(0, len(self._rows), size):
            yield Batch(self._rows[first : first + size], first + 1)


def rows_of(rows: Any) -> RowStream:
    if isinstance(rows, list):
        return _Listed(rows)
    return _InMemory(rows)
