"""Parquet and Arrow (IPC file and IPC stream): batches of columns become rows of Python values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.ipc  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from whet.data.compressed import Stored, reading, seekable
from whet.data.parts import PIECE_ROWS, Damage, Piece
from whet.errors import DataError


def read_parquet(file: Stored, damage: Damage) -> Iterator[Piece]:
    """The rows of a parquet file, a piece of a row group at a time."""
    with _columns(file, "parquet") as stream:
        opened = _parquet(stream)
        total, read = max(opened.metadata.num_rows, 1), 0
        for batch in opened.iter_batches(batch_size=PIECE_ROWS, use_threads=False):
            read += batch.num_rows
            yield Piece(batch.to_pylist(), file.size * read // total)


def parquet_rows(file: Stored) -> int:
    """How many rows the footer names."""
    with _columns(file, "parquet") as stream:
        return int(_parquet(stream).metadata.num_rows)


def read_arrow(file: Stored, damage: Damage) -> Iterator[Piece]:
    """The rows of an Arrow IPC file (also Feather 2) or IPC stream."""
    with _columns(file, "Arrow") as stream:
        for batch in _batches(stream):
            batch.validate(full=True)  # the format has no checksums: what is damaged would crash the process
            for start in range(0, batch.num_rows, PIECE_ROWS):
                done = file.size if stream.closed else min(stream.tell(), file.size)
                yield Piece(batch.slice(start, PIECE_ROWS).to_pylist(), done)


def read_dataset(rows: Any) -> Callable[[Damage], Iterator[Piece]]:
    """Read a ``datasets.Dataset``; ``Piece.done`` counts rows. The format that the caller has set on it is ignored."""

    def read(damage: Damage) -> Iterator[Piece]:
        done = 0
        for table in rows.with_format("arrow").iter(batch_size=PIECE_ROWS):
            done += table.num_rows
            yield Piece(table.to_pylist(), done)

    return read


def _parquet(stream: IO[bytes]) -> Any:
    # A buffered stream without pre-buffering reads a row group bit by bit, not whole.
    return pyarrow.parquet.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)


def _batches(stream: IO[bytes]) -> Iterator[Any]:
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"ARROW1":
        opened = pyarrow.ipc.open_file(stream)
        for index in range(opened.num_record_batches):
            yield opened.get_batch(index)
    else:
        yield from pyarrow.ipc.open_stream(stream)


@contextlib.contextmanager
def _columns(file: Stored, kind: str) -> Iterator[IO[bytes]]:
    with reading(file.place), seekable(file) as stream:
        try:
            yield stream
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError, MemoryError) as error:  # a length may be damaged
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system: Arrow gives its own, such as a file cut off, no number
            given = f"{file.place}: damaged, or no {kind} file: {(str(error) or type(error).__name__).splitlines()[0]}"
            raise DataError(given, f"a whole {kind} file") from error
