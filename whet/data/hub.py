"""Data sets by name: the hub of Hugging Face, or a folder that the ``datasets`` library understands by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import huggingface_hub

from whet.data.columnar import read_dataset
from whet.data.parts import PIECE_ROWS, Part, Piece
from whet.errors import DataError


def load(
    path: str, *, name: str | None, split: str, revision: str | None, files: Sequence[str], streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    """What the hub has under this name; ``streaming``: nothing is fetched before it is read.

    Raises:
        DataError: with the first line of what the library says.
    """
    try:
        return datasets.load_dataset(
            path, name, split=split, revision=revision, data_files=list(files) or None, streaming=streaming
        )
    except Exception as error:  # the hub, the network and a dozen formats stand behind this call
        raise DataError(
            f"{path}: no file or folder of that name here, and the hub gave no data set: {_first_line(error)}",
            "a local file or folder, or owner/name of a data set on the hub",
        ) from error


def dataset_part(rows: datasets.Dataset | datasets.IterableDataset, name: str) -> Part:
    """The rows of a data set of the ``datasets`` library; sizes are numbers of rows."""
    if isinstance(rows, datasets.Dataset):
        return Part(name, len(rows), read_dataset(rows), lambda: len(rows))
    return Part(name, None, lambda damage: _streamed(rows, name))


def dataset_seal(rows: Any, path: str, revision: str | None) -> str:
    """What changes when the content may: the library's own fingerprint; streaming, the commit on the hub.

    Where the hub cannot be asked for the commit, the first rows stand for all of them.
    """
    if isinstance(rows, datasets.Dataset):
        return str(rows._fingerprint)
    try:
        return str(huggingface_hub.HfApi().dataset_info(path, revision=revision).sha)
    except Exception:  # no network, no such name, or a folder
        first = next(_streamed(rows, path)).rows
        return hashlib.blake2b(json.dumps([path, revision, first], default=repr).encode()).hexdigest()


def _streamed(rows: datasets.IterableDataset, name: str) -> Iterator[Piece]:
    done = 0
    found: list[dict[str, Any]] = []
    try:
        for row in rows:
            found.append(dict(row))
            if len(found) == PIECE_ROWS:
                done += len(found)
                yield Piece(found, done)
                found = []
    except Exception as error:  # as in load: this is where a streamed data set is fetched and parsed
        raise DataError(f"{name}: reading stopped after row {done + len(found)}: {_first_line(error)}") from error
    yield Piece(found, done + len(found))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
