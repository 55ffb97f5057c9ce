"""The shipped configs are read as they are, and read real rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet.config import load_config
from whet.data.formats import FormatSpec, to_records
from whet.data.records import ChatRecord, PairRecord
from whet.data.sources import read_rows

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.yml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_valid_config(path: Path) -> None:
    assert load_config(path).datasets


def test_text_to_sql_reads_wikisql(shared: Path) -> None:
    rows = shared / "data" / "wikisql" / "train.jsonl"
    config = load_config(EXAMPLES[0].parent / "text_to_sql.yml", [f"datasets.0.path={rows}"])
    entry = config.datasets[0]
    result = to_records(read_rows(entry.path, split=entry.split), FormatSpec(**entry.format_fields()))
    first = result.records[0]
    assert len(result.records) == 5000 and isinstance(first, PairRecord)
    assert first.prompt.startswith("Tables: CREATE TABLE ") and first.prompt.endswith("\nSQL:\n")
    assert first.completion.startswith("SELECT ")


def test_titanic_merges_columns(shared: Path) -> None:
    rows = shared / "data" / "titanic" / "titanic.csv"
    config = load_config(EXAMPLES[0].parent / "titanic.yml", [f"datasets.0.path={rows}"])
    entry = config.datasets[0]
    result = to_records(read_rows(entry.path), FormatSpec(**entry.format_fields()))
    assert len(result.records) == 891 and all(isinstance(record, ChatRecord) for record in result.records)
    asked = [message["content"] for record in result.records for message in record.messages[1:2]]
    assert asked[5] == "The passenger embarked from Q. Their fare is $8.4583."
