"""The rules that the shipped questions keep."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from contextlib import closing
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from whet.evaluate.tasks.sql import run_query, sql_accuracy
from whet.sample import Row, database_path, heldout_rows, train_rows
from whet.sample.make import make_sample
from whet.sample.pools import POOLS
from whet.sample.schema import TABLES
from whet.sample.template import Template
from whet.sample.templates import TEMPLATES

BY_NAME = {template.name: template for template in TEMPLATES}
LITERAL = re.compile(r"'([^']*)'|\b(\d+(?:\.\d+)?)\b")


@pytest.fixture(scope="module")
def train() -> list[Row]:
    return train_rows()


@pytest.fixture(scope="module")
def held_out() -> list[Row]:
    return heldout_rows()


def _worded_as(question: str, phrasings: tuple[str, ...]) -> set[str]:
    """The phrasings that the question may have been made from, by their values."""
    return {phrasing for phrasing in phrasings if _pattern(phrasing).fullmatch(question)}


@cache
def _pattern(phrasing: str) -> re.Pattern[str]:
    escaped = re.escape(phrasing).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(re.sub(r"\{(\w+)\}", lambda slot: _any_of(slot[1]), escaped))


def _any_of(slot: str) -> str:
    return "(?:" + "|".join(re.escape(value.text) for value in POOLS[slot]) + ")"


def test_the_script_writes_the_shipped_bytes(tmp_path: Path) -> None:
    make_sample(tmp_path)
    shipped = database_path().parent
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (shipped / path.name).read_bytes(), f"run scripts/make_sample.py: {path.name}"
    assert len(list(tmp_path.iterdir())) == 3


def test_sizes(train: list[Row], held_out: list[Row]) -> None:
    assert len(train) >= 2_800
    assert len(held_out) == 300
    assert sum(path.stat().st_size for path in database_path().parent.iterdir()) < 1_000_000
    assert max(len(row.question.split()) for row in train + held_out) <= 25
    assert max(len(row.sql.split()) for row in train + held_out) <= 40


def test_no_question_comes_twice(train: list[Row], held_out: list[Row]) -> None:
    questions = Counter(row.question.lower() for row in train + held_out)
    assert questions.most_common(1)[0][1] == 1


def test_held_out_values_are_new_for_their_template(train: list[Row], held_out: list[Row]) -> None:
    # Every slot of a template is in its SQL: another query means other values.
    assert not {row.sql for row in train} & {row.sql for row in held_out}
    for template in TEMPLATES:
        for phrasing in template.phrasings + template.unseen:
            assert set(re.findall(r"\{(\w+)\}", phrasing)) == set(template.slots()), phrasing


def test_a_third_of_the_held_out_wordings_is_new(train: list[Row], held_out: list[Row]) -> None:
    trained: dict[str, set[str]] = {template.name: set() for template in TEMPLATES}
    for row in train:
        worded = _worded_as(row.question, BY_NAME[row.template].phrasings)
        assert row.seen_phrasing
        assert worded, row.question
        trained[row.template] |= worded
    for row in held_out:
        template = BY_NAME[row.template]
        if row.seen_phrasing:
            assert _worded_as(row.question, template.phrasings) & trained[row.template], row.question
        else:
            assert _worded_as(row.question, template.unseen), row.question
            assert not any(_worded_as(row.question, other.phrasings) for other in TEMPLATES), row.question
    assert sum(not row.seen_phrasing for row in held_out) == 100


def test_every_template_is_trained_and_none_fills_the_held_out_set(train: list[Row], held_out: list[Row]) -> None:
    counts = Counter(row.template for row in train)
    assert set(counts) == set(BY_NAME)
    assert min(counts.values()) >= 15
    assert len({row.template for row in held_out}) >= 80
    assert Counter(row.template for row in held_out).most_common(1)[0][1] <= 6


def test_every_gold_query_runs_and_has_an_answer(train: list[Row], held_out: list[Row]) -> None:
    for row in train + held_out:
        _, rows = run_query(database_path(), row.sql)
        assert 1 <= len(rows) <= 40, row.sql
        assert any(cell for cells in rows for cell in cells), row.sql


def test_gold_scores_in_full(held_out: list[Row]) -> None:
    assert all(sql_accuracy(database_path(), [(row.sql, row.sql) for row in held_out]))


def test_no_constant_answer_scores_above_five_percent(train: list[Row], held_out: list[Row]) -> None:
    # A constant query scores by its one result: the most frequent results among the gold ones bound them all.
    results: dict[str, list[str]] = {}
    for row in held_out:
        rows = run_query(database_path(), row.sql)[1]
        results.setdefault(repr(sorted((tuple(map(_plain, cells)) for cells in rows), key=repr)), []).append(row.sql)
    common = sorted(results.values(), key=len, reverse=True)[:5]
    constants = [queries[0] for queries in common] + ["SELECT 1", "SELECT 2", "SELECT COUNT(*) FROM departments"]
    for constant in constants:
        correct = sum(sql_accuracy(database_path(), [(row.sql, constant) for row in held_out]))
        assert correct <= 0.05 * len(held_out), constant


def _plain(cell: object) -> object:
    return round(float(cell), 6) if isinstance(cell, int | float) else cell


def test_held_out_literals_are_known_from_training(train: list[Row], held_out: list[Row]) -> None:
    known = set(chain.from_iterable(_literals(row) for row in train))
    wanted = list(chain.from_iterable(_literals(row) for row in held_out))
    assert sum(value in known for value in wanted) >= 0.95 * len(wanted)


def _literals(row: Row) -> list[str]:
    found = (text or number for text, number in LITERAL.findall(row.sql))
    return [value for value in found if not value.startswith("%")]


def test_literals_stand_in_the_question(train: list[Row], held_out: list[Row]) -> None:
    for row in train + held_out:
        for value in _literals(row):
            if re.fullmatch(r"\d{4}-\d{2}(-01)?", value):
                value = value[:4]
            assert value in row.question, row


def test_all_kinds_of_query_occur(held_out: list[Row]) -> None:
    text = "\n".join(row.sql for row in held_out)
    kinds = (
        " JOIN ",
        "COUNT(*)",
        "SUM(",
        "AVG(",
        "MAX(",
        "GROUP BY",
        "HAVING",
        "ORDER BY",
        "LIMIT",
        "strftime",
        "NOT IN",
        "!=",
        "BETWEEN",
        "DISTINCT",
        ">= '20",
    )
    assert [kind for kind in kinds if kind not in text] == []
    assert all(re.search(rf"\b{table}\b", text) for table in TABLES)


def test_template_names_and_queries_are_unique() -> None:
    assert len(BY_NAME) == len(TEMPLATES)
    assert len({template.sql for template in TEMPLATES}) == len(TEMPLATES)
    assert all((" ORDER BY " in template.sql) == (" LIMIT " in template.sql) for template in TEMPLATES)
    assert all(4 <= len(template.phrasings) + len(template.unseen) <= 8 for template in TEMPLATES)


def test_slots_are_found_once_and_in_order() -> None:
    assert Template("x", "SELECT {b} WHERE {a} OR {b}", ()).slots() == ("b", "a")


def test_importing_the_sample_is_light() -> None:
    code = "import sys, whet.sample; whet.sample.train_rows(); print('torch' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_database_is_whole() -> None:
    import sqlite3

    with closing(sqlite3.connect(f"{database_path().as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for table in TABLES:
            assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] >= 8
        wrong = connection.execute(
            "SELECT COUNT(*) FROM orders WHERE abs(total - (SELECT SUM(quantity * unit_price) FROM order_items "
            "WHERE order_items.order_id = orders.id)) > 0.01"
        ).fetchone()[0]
        early = connection.execute(
            "SELECT COUNT(*) FROM shipments JOIN orders ON shipments.order_id = orders.id WHERE ship_date < order_date"
        ).fetchone()[0]
    assert (wrong, early) == (0, 0)


def test_the_card_states_the_true_sizes(train: list[Row], held_out: list[Row]) -> None:
    card = (database_path().parent / "README.md").read_text(encoding="utf-8")
    n_rows = sum(len(run_query(database_path(), f"SELECT id FROM {table}")[1]) for table in TABLES)
    assert f"{len(TABLES)} tables, {n_rows} rows: {', '.join(TABLES)}" in card
    assert f"{len(train):,} questions to train on" in card
    assert f"{len(held_out)} questions to measure with" in card
    assert f"{len(TEMPLATES)} kinds of question" in card
