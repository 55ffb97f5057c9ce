"""Making and splitting questions, on small templates over the real database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from whet.errors import DataError
from whet.sample.answers import Answers
from whet.sample.database import company_rows, fill, write_database
from whet.sample.questions import build
from whet.sample.rows import Row, read_rows, write_rows
from whet.sample.template import Template

PRICE = Template(
    "price",
    "SELECT price FROM products WHERE name = '{product}'",
    ("What does the {product} cost?", "Price of the {product}?"),
    ("How much is the {product}?",),
)
STOCK = Template("stock", "SELECT name FROM products WHERE stock < {stock} ORDER BY stock", ("Stock below {stock}?",))


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as opened:
        fill(opened, seed=3)
        yield opened


def test_the_split_keeps_values_apart(connection: sqlite3.Connection) -> None:
    train, held_out = build([PRICE], connection, seed=5, n_train=60, n_held_out=6)
    assert (len(train), len(held_out)) == (60, 6)
    assert not {row.sql for row in train} & {row.sql for row in held_out}
    assert [row.seen_phrasing for row in held_out].count(False) == 2
    assert len({row.sql for row in held_out}) == 6


def test_another_seed_splits_in_another_way(connection: sqlite3.Connection) -> None:
    one, two = (build([PRICE], connection, seed, 60, 6) for seed in (1, 2))
    assert one == build([PRICE], connection, 1, 60, 6)
    assert {row.sql for row in one[1]} != {row.sql for row in two[1]}


def test_too_few_questions_is_an_error(connection: sqlite3.Connection) -> None:
    with pytest.raises(DataError, match="training questions"):
        build([PRICE], connection, 5, 1_000, 6)
    with pytest.raises(DataError, match="held-out questions"):
        build([PRICE, STOCK], connection, 5, 10, 40)


def test_usable_answers(connection: sqlite3.Connection) -> None:
    answers = Answers(connection)
    assert answers.usable("SELECT name FROM departments")
    assert answers.usable("SELECT name FROM departments ORDER BY id LIMIT 2")
    assert not answers.usable("SELECT name FROM departments WHERE id > 99")
    assert not answers.usable("SELECT SUM(total) FROM orders WHERE id > 999")
    assert not answers.usable("SELECT COUNT(*) FROM orders WHERE id > 999")
    assert not answers.usable("SELECT id FROM orders")  # too long to be read
    assert not answers.usable("SELECT name FROM departments ORDER BY floor LIMIT 3")  # two departments share a floor


def test_the_database_file_holds_the_rows_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "company.sqlite"
    path.write_text("old")
    assert write_database(path, seed=3) == path
    with closing(sqlite3.connect(path)) as connection:
        stored = connection.execute("SELECT * FROM orders ORDER BY id").fetchall()
    assert stored == company_rows(3)["orders"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["company.sqlite"]
    assert company_rows(4)["orders"] != stored


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    rows = [Row("What's that?", "SELECT 'a'", "x", False), Row("Größe?", "SELECT 1", "y")]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_damaged_rows_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        read_rows(tmp_path / "absent.jsonl")
    for text in ("{", '{"question": "x"}', "3"):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"bad\.jsonl"):
            read_rows(tmp_path / "bad.jsonl")
