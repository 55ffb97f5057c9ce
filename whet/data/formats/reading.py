"""From a stream of rows to a stream of records: in batches, in order, with what was left out counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import datasets

from whet.data.formats.cells import Make
from whet.data.formats.choose import choose
from whet.data.formats.spec import FormatSpec
from whet.data.records import Record
from whet.data.stream import Batch, RowStream, rows_of
from whet.errors import DataError


@dataclass
class RecordStream:
    """Records of one source, read anew by every iteration and never all at once.

    Attributes:
        reason: one sentence on how the rows are read.
        dropped: rows left out so far, by reason; every iteration begins to count again.
    """

    stream: RowStream
    make: Make
    reason: str
    dropped: Counter[str] = field(default_factory=Counter)

    def batches(self, size: int = 1000) -> Iterator[tuple[list[Record], Batch]]:
        """The records of each batch of rows (fewer where rows are left out), and the batch.

        Raises:
            DataError: a row that is wrong (source and number are named), or no row that can be used.
        """
        self.dropped.clear()
        rows = kept = 0
        for batch in self.stream.batches(size):
            records = self._records(batch)
            rows, kept = rows + len(batch.rows), kept + len(records)
            yield records, batch
        if not kept:
            why = ", ".join(f"{count} with {what}" for what, count in self.dropped.items())
            given = f"{self.stream.name}: no row is left of {rows}" + (f": {why}" if why else "")
            columns = ", ".join(self.stream.columns)
            raise DataError(given, "rows with a question and an answer", f"columns: {columns}")

    def __iter__(self) -> Iterator[Record]:
        for records, _ in self.batches():
            yield from records

    def _records(self, batch: Batch) -> list[Record]:
        make, records = self.make, []
        for number, row in enumerate(batch.rows, batch.first):
            try:
                made = make(row)
            except DataError as error:
                place = f"{self.stream.name}: row {number}"
                raise DataError(f"{place}: {error.given}", error.expected, error.fix) from error
            if isinstance(made, str):
                self.dropped[made] += 1
            else:
                records.append(made)
        return records


def open_records(stream: RowStream, spec: FormatSpec) -> RecordStream:
    """Decide how the rows of ``stream`` are read; nothing is read yet but what that decision needs.

    Raises:
        DataError: a column that is not there (with the nearest one), an unknown type, field or role, or columns that
            nothing is known about.
    """

    def first_row() -> dict[str, object]:
        batch = next(iter(stream.batches(1)), None)
        return batch.rows[0] if batch and batch.rows else {}

    try:
        make, reason = choose(spec, stream.columns, first_row)
    except DataError as error:
        raise DataError(f"{stream.name}: {error.given}", error.expected, error.fix) from error
    return RecordStream(stream, make, reason)


@dataclass(frozen=True)
class FormatResult:
    """The records, how many rows were left out and why, and one sentence on how the rows were read."""

    records: list[Record]
    dropped: dict[str, int] = field(default_factory=dict)
    reason: str = ""


def to_records(rows: datasets.Dataset, spec: FormatSpec) -> FormatResult:
    """Read every row of a data set in memory as ``spec`` says; raises as :func:`open_records` and its iteration do."""
    found = open_records(rows_of(rows), spec)
    records = list(found)
    return FormatResult(records, dict(found.dropped), found.reason)
