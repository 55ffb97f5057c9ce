"""CSV and TSV: delimiters, quotes, line breaks, encodings, damaged lines."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import all_rows, read, refused, write

from whet.console import forget_notices
from whet.data import delimited, lines
from whet.data.stream import open_rows


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_breaks_are_found(tmp_path: Path, delimiter: str, newline: str) -> None:
    table = [
        ["question", "answer", "price"],
        ["a, b; c | d\te", 'say "hi"', "1,5"],
        ["x", "", "007"],
        ["y", " z ", "2"],
    ]
    made = io.StringIO(newline="")
    csv.writer(made, delimiter=delimiter, lineterminator=newline).writerows(table)
    file = write(tmp_path / "a.csv", made.getvalue())
    assert read(file) == [
        {"question": "a, b; c | d\te", "answer": 'say "hi"', "price": "1,5"},
        {"question": "x", "answer": None, "price": "007"},
        {"question": "y", "answer": " z ", "price": "2"},
    ]


def test_a_delimiter_is_not_a_comma_in_a_sentence(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "id;text\n1;Hello, world, hello\n2;One, two, three\n")
    assert read(file)[0] == {"id": "1", "text": "Hello, world, hello"}


def test_the_delimiter_that_is_given_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.csv", "a;b,c\n1;2,3\n")
    assert read(file, delimiter=";") == [{"a": "1", "b,c": "2,3"}]
    assert read(write(tmp_path / "b.csv", "a b^c\n1^2\n"), delimiter="^") == [{"a b": "1", "c": "2"}]
    assert read(write(tmp_path / "c.csv", "a,b\tc\n1,2\t3\n"), delimiter="\\t") == [{"a,b": "1,2", "c": "3"}]
    assert "cannot be used" in refused(file, delimiter=";;")
    assert "cannot be used" in refused(file, delimiter='"')
    assert "separated" not in capsys.readouterr().err


def test_another_delimiter_than_usual_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(write(tmp_path / "a.csv", "a;b\n1;2\n"))
    assert "a.csv: the cells are separated by semicolons" in capsys.readouterr().err
    assert read(write(tmp_path / "b.tsv", "a,b\n1,2\n")) == [{"a": "1", "b": "2"}]
    assert "b.tsv: the cells are separated by commas" in capsys.readouterr().err


def test_the_hint_that_excel_writes(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.csv", "sep=;\r\na;b,c\r\n1;2,5\r\n")) == [{"a": "1", "b,c": "2,5"}]


def test_cells_with_line_breaks_keep_the_line_numbers(tmp_path: Path) -> None:
    text = 'a,b\n"one\ntwo\n\nfour",x\ny,z\n1,2,3\n'
    file = write(tmp_path / "a.csv", text)
    assert "a.csv:7: the line is damaged: 3 cells under a header of 2" in refused(file)
    stream = open_rows(file, damaged="skip")
    assert all_rows(stream) == [{"a": "one\ntwo\n\nfour", "b": "x"}, {"a": "y", "b": "z"}]
    assert stream.damaged_count == 1 and stream.damaged[0].startswith(f"{file}:7: ")


def test_too_few_cells_are_missing_and_empty_ones_too_many_do_no_harm(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "a,b,c\n1\n1,2,3,,\n\n,,\n")
    none = {"a": None, "b": None, "c": None}
    assert read(file) == [{**none, "a": "1"}, {"a": "1", "b": "2", "c": "3"}, none]


def test_names_of_columns(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "\n,a,b.c d,a,\n0,1,2,3,4\n")
    assert read(file) == [{"Unnamed: 0": "0", "a": "1", "b.c d": "2", "a.1": "3", "Unnamed: 4": "4"}]


class TestQuotesThatAreNeverClosed:
    TEXT = 'a,b\n1,2\n"3,4\n5,6\n7,8\n'

    def test_is_an_error_where_it_opens(self, tmp_path: Path) -> None:
        assert "a.csv:3: the line is damaged: a quote opens" in refused(write(tmp_path / "a.csv", self.TEXT))

    def test_costs_one_line_when_skipped(self, tmp_path: Path) -> None:
        stream = open_rows(write(tmp_path / "a.csv", self.TEXT), damaged="skip")
        assert [row["a"] for row in all_rows(stream)] == ["1", "5", "7"]
        assert stream.damaged_count == 1

    def test_in_the_header(self, tmp_path: Path) -> None:
        assert "a.csv:1: the line is damaged: a quote opens" in refused(write(tmp_path / "a.csv", '"a,b\n1,2\n'))

    def test_stops_at_the_longest_cell(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = csv.field_size_limit(1000)
        try:
            file = write(tmp_path / "a.csv", 'a,b\n1,2\n"3,4\n' + "5,6\n" * 1000)
            stream = open_rows(file, damaged="skip")
            assert len(all_rows(stream)) == 1001
            assert stream.damaged == [f"{file}:3: the line is damaged: a quote opens a cell and is never closed"]
        finally:
            csv.field_size_limit(before)

    def test_too_many_of_them_end_the_reading(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(delimited, "RESTARTS", 3)
        before = csv.field_size_limit(20)
        try:
            file = write(tmp_path / "a.csv", "a,b\n1,2\n" + ('"3,4\n' + "5,6\n" * 20) * 4)
            assert "3 quotes are opened and never closed" in refused(file, damaged="skip")
        finally:
            csv.field_size_limit(before)


def test_damaged_bytes_cost_their_line_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = "".join(f"é{i},ü{i}\n" for i in range(100)).encode()
    text = b"a,b\n" + good + b"bad \xff,x\n" + b"nul \0,x\n" + b'"two\nlines \xff",x\n' + good + b"c\rd,e\n"
    file = write(tmp_path / "a.csv", text)
    assert "a.csv:102: not UTF-8 text at byte 5 of the line" in refused(file)
    for block in (lines.BLOCK, 64, 7):
        monkeypatch.setattr(lines, "BLOCK", block)
        stream = open_rows(file, damaged="skip")
        assert [row["a"] for row in all_rows(stream)] == [f"é{i}" for i in range(100)] * 2
        assert [found.split(": ")[0].rpartition(":")[2] for found in stream.damaged] == ["102", "103", "105", "206"]


def test_a_cell_of_a_megabyte(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / "a.csv", f'a,b\n"{"long " * 200_000}",x\n'))[0]["a"]) == 1_000_000


def test_titanic_reads_as_pandas_reads_it(shared: Path) -> None:
    file = shared / "data" / "titanic" / "titanic.csv"
    by_pandas = pandas.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    assert read(file) == by_pandas.astype(object).where(by_pandas.notna(), None).to_dict("records")


CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r\ufeff"), max_size=8)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030"]),
    block=st.sampled_from([3, 16, 1 << 20]),
)
def test_what_a_writer_writes_is_read(
    tmp_path: Path, rows: list[tuple[str, str, str]], delimiter: str, encoding: str, block: int
) -> None:
    made = io.StringIO(newline="")
    csv.writer(made, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("x", "y", "z"), *rows])
    file = write(tmp_path / "a.csv", made.getvalue().encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        stream = open_rows(file, encoding=encoding.removesuffix("-sig"), delimiter=delimiter)
        expected = [{"x": x or None, "y": y or None, "z": z or None} for x, y, z in rows]
        assert all_rows(stream, 3) == expected


def test_notices_are_said_anew_for_a_new_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.csv", "a;b\n1;2\n")
    for _ in range(2):
        forget_notices()
        read(file)
    assert capsys.readouterr().err.count("semicolons") == 2
