"""The shipped sample: its database and its questions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from whet.errors import DataError

DATABASE = "company.sqlite"
TRAIN = "train.jsonl"
HELD_OUT = "heldout.jsonl"

_DATA = Path(__file__).resolve().parent / "data"


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        question: in English, as a person asks it.
        sql: the gold query, for SQLite.
        template: the name of the template that it was made from.
        seen_phrasing: whether training shows this wording (always true for training rows).
    """

    question: str
    sql: str
    template: str
    seen_phrasing: bool = True


def database_path() -> Path:
    """The shipped SQLite file; open it read-only."""
    return _DATA / DATABASE


def train_rows() -> list[Row]:
    """The questions to train on."""
    return read_rows(_DATA / TRAIN)


def heldout_rows() -> list[Row]:
    """The questions to measure with: new values throughout, new wordings in a third of them."""
    return read_rows(_DATA / HELD_OUT)


def read_rows(path: Path) -> list[Row]:
    """Read rows written by ``write_rows``.

    Raises:
        DataError: the file is missing or a line is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", fix="install whet again") from error
    try:
        return [Row(**json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise DataError(f"{path} holds a line that is no question: {error}", fix="install whet again") from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8", newline="\n")
