"""Makes the shipped sample from its seed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from whet.sample.database import fill, write_database
from whet.sample.questions import build
from whet.sample.rows import DATABASE, HELD_OUT, TRAIN, write_rows
from whet.sample.templates import TEMPLATES

SEED = 41
N_TRAIN = 2_900
N_HELD_OUT = 300


def make_sample(folder: Path) -> None:
    """Write the database, the training rows and the held-out rows into a folder that exists."""
    write_database(folder / DATABASE, SEED)
    with closing(sqlite3.connect(":memory:")) as connection:
        fill(connection, SEED)
        train, held_out = build(TEMPLATES, connection, SEED, N_TRAIN, N_HELD_OUT)
    write_rows(folder / TRAIN, train)
    write_rows(folder / HELD_OUT, held_out)
