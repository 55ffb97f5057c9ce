"""Pairs of the sample task: concise answers are better than verbose ones. Both hold the right SQL.

Wordings and their order are drawn by seed, so that the difference is how much is said, not one sentence.

    python -m whet.sample.preferences FOLDER    writes FOLDER/pairs.jsonl (700) and FOLDER/heldout.jsonl (200)
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from whet.console import write_text_atomic
from whet.data.records import PreferenceRecord
from whet.sample.rows import Row, heldout_rows, train_rows

TRAIN_PAIRS, HELD_OUT_PAIRS = 700, 200
CONCISE = ("{sql}", "{sql};", "SQL: {sql}", "Run this: {sql}", "Here it is: {sql}")
OPENINGS = (
    "That is an interesting question.",
    "Thank you for asking.",
    "Let us think about this step by step.",
    "There are several ways to look at this.",
    "I would be happy to help with that.",
)
BEFORE = (
    "To answer it, we first have to look at the tables of the company.",
    "A database keeps its rows in tables, and SQL is a language for asking about them.",
    "The query below reads the rows that matter and leaves out the others.",
    "It is always good to check which columns a table has before writing a query.",
)
AFTER = (
    "I hope that this explanation helps.",
    "Please let me know whether you need anything else.",
    "Of course the result depends on the rows that are in the table today.",
    "You could also write this query in other ways, but this one is easy to read.",
)


def preference_rows(rows: Sequence[Row], seed: int = 0) -> list[dict[str, str]]:
    """``prompt``, ``chosen`` and ``rejected`` for each question."""
    draw = random.Random(seed)
    return [{"prompt": row.question, "chosen": _concise(row, draw), "rejected": _verbose(row, draw)} for row in rows]


def preference_records(seed: int = 0) -> list[PreferenceRecord]:
    """The training pairs as records."""
    return [
        PreferenceRecord(
            [{"role": "user", "content": row["prompt"]}],
            [{"role": "assistant", "content": row["chosen"]}],
            [{"role": "assistant", "content": row["rejected"]}],
        )
        for row in preference_rows(train_rows()[:TRAIN_PAIRS], seed)
    ]


def write_preferences(folder: Path) -> None:
    """Write both files.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "pairs.jsonl", preference_rows(train_rows()[:TRAIN_PAIRS], 0))
    _write(folder / "heldout.jsonl", preference_rows(heldout_rows()[:HELD_OUT_PAIRS], 1))


def _concise(row: Row, draw: random.Random) -> str:
    return draw.choice(CONCISE).format(sql=row.sql)


def _verbose(row: Row, draw: random.Random) -> str:
    before = [draw.choice(OPENINGS), *draw.sample(BEFORE, draw.randint(1, 3))]
    return " ".join([*before, row.sql, *draw.sample(AFTER, draw.randint(1, 3))])


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    write_preferences(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
