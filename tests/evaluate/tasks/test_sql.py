"""Execution accuracy on a real SQLite file, with predictions that try to do harm."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import DataError
from whet.evaluate.tasks.sql import execution_match, run_query, sql_accuracy, wilson_interval

GOLD = "SELECT name, price FROM things WHERE price > 2"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "a shop #1?.sqlite"  # characters that mean something in a URI
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE things (id INTEGER, name TEXT, price REAL)")
        rows = [(1, "cup", 2.5), (2, "pan", 10.0), (3, "mat", 2.0), (4, "cup", 2.5), (5, None, 0.1)]
        connection.executemany("INSERT INTO things VALUES (?, ?, ?)", rows)
    return path


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        (GOLD, GOLD + ";"),
        (GOLD, "select name, price from things where price > 2 order by price desc"),
        ("SELECT id FROM things ORDER BY price, id", "SELECT id FROM things ORDER BY price ASC, id"),
        ("SELECT COUNT(*) FROM things", "SELECT 5.0"),
        ("SELECT SUM(price) FROM things", "SELECT 17.1000001"),
        ("SELECT price, id FROM things", "SELECT price + 1e-9, id FROM things ORDER BY id DESC"),
        ("SELECT id FROM things WHERE id IN (SELECT id FROM things ORDER BY id)", "SELECT 6 - id FROM things"),
        ("SELECT ' order by ', id FROM things", "SELECT ' order by ', 6 - id FROM things"),
        ("SELECT name FROM things WHERE name IS NULL", "SELECT NULL"),
        ("SELECT id FROM things WHERE id > 9", "SELECT id FROM things WHERE 0"),
    ],
)
def test_equal_results_match(database: Path, gold: str, predicted: str) -> None:
    assert execution_match(database, gold, predicted)


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        (GOLD, "SELECT price, name FROM things WHERE price > 2"),
        (GOLD, "SELECT DISTINCT name, price FROM things WHERE price > 2"),
        (GOLD, "SELECT name FROM things WHERE price > 2"),
        ("SELECT DISTINCT name FROM things WHERE id < 3", "SELECT name FROM things WHERE id IN (1, 4)"),
        ("SELECT id FROM things ORDER BY id", "SELECT id FROM things ORDER BY id DESC"),
        ("SELECT SUM(price) FROM things", "SELECT 17.11"),
        ("SELECT COUNT(*) FROM things", "SELECT '5'"),
        ("SELECT id FROM things WHERE id > 9", "SELECT NULL"),
        ("SELECT id FROM things WHERE id = 1", "SELECT id FROM things"),
    ],
)
def test_other_results_do_not_match(database: Path, gold: str, predicted: str) -> None:
    assert not execution_match(database, gold, predicted)


@pytest.mark.parametrize(
    "predicted",
    [
        "",
        ";",
        "-- nothing",
        "the cup costs 2.5",
        "SELECT nothing FROM things",
        "SELECT * FROM nowhere",
        "SELECT 'open",
        "SELECT \x00 1",
        "SELECT '\ud800'",
        "SELECT zeroblob(1000000000)",
        "SELECT printf('%.*c', 100000000, 'x')",
        "SELECT abs(-9223372036854775808)",
        "SELECT CAST(x'ff' AS TEXT)",
        "SELECT ?",
        "SELECT 1 " + "+ 1" * 20_000,
        GOLD + "; " + GOLD,
        GOLD + "; DROP TABLE things",
        "DELETE FROM things",
        "DROP TABLE things",
        "INSERT INTO things VALUES (9, 'x', 9) RETURNING name, price",
        "WITH a AS (SELECT 1) UPDATE things SET price = 0 WHERE id IN (SELECT * FROM a)",
        "PRAGMA query_only = OFF",
        "PRAGMA user_version = 7",
        "CREATE TEMP TABLE mine AS SELECT 1",
        "VACUUM INTO 'copy.sqlite'",
        "ATTACH DATABASE 'other.sqlite' AS other",
        "SELECT load_extension('evil')",
        "BEGIN EXCLUSIVE",
        "EXPLAIN " + GOLD,
    ],
)
def test_a_bad_prediction_is_wrong_and_changes_nothing(
    database: Path, predicted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = hashlib.sha256(database.read_bytes()).digest()
    assert not execution_match(database, GOLD, predicted)
    assert hashlib.sha256(database.read_bytes()).digest() == before
    assert [path.name for path in tmp_path.iterdir()] == [database.name]


@pytest.mark.parametrize("predicted", [ENDLESS, ENDLESS.replace("max(i)", "i"), f"{GOLD} AND 1 < ({ENDLESS})"])
def test_an_endless_prediction_is_stopped(database: Path, predicted: str) -> None:
    assert not execution_match(database, GOLD, predicted, timeout_s=0.05)


def test_a_stopped_prediction_leaves_the_connection_usable(database: Path) -> None:
    pairs = [(GOLD, ENDLESS), (GOLD, "BEGIN"), (GOLD, "PRAGMA query_only = OFF"), (GOLD, GOLD), (GOLD, "SELECT 1")]
    assert sql_accuracy(database, pairs, timeout_s=0.05) == [False, False, False, True, False]


def test_a_gold_query_that_fails_is_an_error_that_shows_it(database: Path) -> None:
    with pytest.raises(DataError, match="SELECT nothing FROM things"):
        execution_match(database, "SELECT nothing FROM things", GOLD)


def test_a_database_that_is_none_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.sqlite"):
        execution_match(tmp_path / "absent.sqlite", GOLD, GOLD)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.sqlite").write_text("no database, but long enough to be read as one\n" * 40)
    with pytest.raises(DataError, match=r"text\.sqlite"):
        sql_accuracy(tmp_path / "text.sqlite", [(GOLD, GOLD)])


def test_run_query_names_the_columns(database: Path) -> None:
    assert run_query(database, "SELECT id, name FROM things WHERE id < 3") == (["id", "name"], [(1, "cup"), (2, "pan")])
    assert len(run_query(database, "SELECT * FROM things", max_rows=2)[1]) == 2
    with pytest.raises(DataError, match="no such table"):
        run_query(database, "SELECT * FROM nowhere")
    with pytest.raises(DataError, match="DROP TABLE"):
        run_query(database, "DROP TABLE things")


@given(sql=st.text(max_size=60))
def test_no_text_raises(sql: str) -> None:
    from whet.sample import database_path

    assert not execution_match(database_path(), "SELECT name FROM departments", sql)


def test_wilson_interval_agrees_with_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(n=st.integers(0, 500), data=st.data())
def test_wilson_interval_holds_the_share(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = wilson_interval(k, n)
    assert 0 <= low <= high <= 1
    assert n == 0 or low <= k / n <= high
    with pytest.raises(ValueError, match="within"):
        wilson_interval(n + 1, n)
