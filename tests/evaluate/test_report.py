"""The report as a browser's parser reads it."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from whet.errors import OutputError
from whet.evaluate.before_after import Case, compare_cases
from whet.evaluate.chart import UNITS, loss_curve, smoothed, thinned, ticks
from whet.evaluate.report import LONGEST_TEXT, evenly_spaced, write_report

HOSTILE = '</pre></td><script>alert("1")</script><img src=x onerror=alert(2)>&amp; \' 分类 \x00\x1b \ud800'
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text; every end tag must close the tag that is open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def having(self, tag: str, name: str, value: str) -> int:
        return sum(found == tag and value in (attrs.get(name) or "").split() for found, attrs in self.tags)


def _cases(n: int) -> list[Case]:
    return [Case(f"question {i}", f"gold {i}", "bad", f"after {i}", False, i % 2 == 0, "ab"[i % 2]) for i in range(n)]


def _write(folder: Path, **changes) -> str:
    given = {
        "title": "Questions to SQL",
        "summary": {"n_eval": 40, "accuracy_after_interval": [0.25, 0.75], "train_seconds": 95.0},
        "curve": [(step, 3 / (step + 1)) for step in range(50)],
        "comparison": compare_cases(_cases(40)),
    }
    write_report(folder / "report.html", **(given | changes))
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_else_and_says_its_language(tmp_path: Path):
    text = _write(tmp_path)
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base"}
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert not attributes & {"src", "href", "xlink:href", "srcset"} and not any(a.startswith("on") for a in attributes)
    assert "url(" not in text and "@import" not in text and "://" not in text
    assert ("html", {"lang": "en"}) in page.tags
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_what_it_shows(tmp_path: Path):
    page = Page(_write(tmp_path, notes=["A note."], samples=10))
    assert "Better by 50 points, 95% interval 35-65: right answers 0% before, 50% after." in page.text
    assert (
        "accuracy after interval25.0% to 75.0%" in page.text
        and "train time1m35s" in page.text
        and "A note." in page.text
    )
    assert sum(tag == "tbody" for tag, _ in page.tags) == 10
    assert page.having("td", "class", "wrong") + page.having("td", "class", "right") == 20
    assert page.text.count("✓ right") == page.having("td", "class", "right") == 5
    assert page.having("div", "class", "bar") == 6  # all, group a, group b: before and after


def test_every_text_is_escaped(tmp_path: Path):
    case = Case(HOSTILE, HOSTILE, HOSTILE, HOSTILE, False, True, HOSTILE)
    plain = Page(_write(tmp_path, comparison=compare_cases([case]), summary={"k": "v"}, notes=["n"], title="t"))
    other = Case("q", "g", "b", "a", False, True, "group")
    harmless = Page(_write(tmp_path, comparison=compare_cases([other]), summary={"k": "v"}, notes=["n"], title="t"))
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in harmless.tags]
    everywhere = Page(_write(tmp_path, summary={HOSTILE: {HOSTILE: HOSTILE}}, notes=[HOSTILE], title=HOSTILE))
    assert not {"script", "img"} & {tag for tag, _ in everywhere.tags}
    assert '<script>alert("1")</script>' in everywhere.text and "\x00" not in everywhere.text
    assert "␀␛ \ufffd" in everywhere.text


def test_long_answers_are_cut_and_empty_ones_named(tmp_path: Path):
    case = Case("q", "g", "", "x" * (LONGEST_TEXT + 5), False, False)
    page = Page(_write(tmp_path, comparison=compare_cases([case])))
    assert "(empty)" in page.text and "… (5 more characters)" in page.text


def test_without_comparison_curve_or_figures(tmp_path: Path):
    page = Page(_write(tmp_path, comparison=None, curve=[], summary={}))
    assert "No loss was recorded" in page.text and "Samples" not in page.text and "Figures" not in page.text
    page = Page(_write(tmp_path, curve=[(1, math.nan), (2, 0.5), (3, math.inf)], summary={"loss": math.nan}))
    assert "2 steps whose loss is not a number" in page.text and "not a number" in page.text.split("Figures")[1]


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        _write(tmp_path / "file")


def test_samples_are_evenly_spaced():
    cases = _cases(100)
    assert [case.question for case in evenly_spaced(cases, 3)] == ["question 0", "question 50", "question 99"]
    assert evenly_spaced(cases, 1) == cases[:1] and evenly_spaced(cases, 200) == cases


@pytest.mark.parametrize(
    "curve",
    [
        [(step, 3 * math.exp(-step / 50)) for step in range(1, 3000)],
        [(10, 2.0)],
        [(1, 0.5), (2, 0.5)],
        [(5, -1.0), (6, -2.5)],
        [(7, 1e-6), (900, 3e4)],
    ],
)
def test_lines_stay_inside_of_the_plot_and_axes_have_numbers(curve):
    page = Page(loss_curve(curve))
    lines = [attrs["points"] for tag, attrs in page.tags if tag == "polyline"]
    places = [tuple(map(float, place.split(","))) for line in lines for place in line.split()]
    assert places and all(0 <= x <= UNITS and 0 <= y <= UNITS for x, y in places)
    assert "loss" in page.text and "step" in page.text and any(character.isdigit() for character in page.text)
    assert len(lines) == (2 if len(curve) > 10 else 1)


@pytest.mark.parametrize(("low", "high"), [(0, 4), (0.21, 3.17), (-3, -1), (0, 0), (5, 5), (0, 1e-9), (1, 480)])
def test_ticks_enclose_the_values(low: float, high: float):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 3 <= len(found) <= 9
    gaps = [b - a for a, b in pairwise(found)]
    assert max(gaps) == pytest.approx(min(gaps))


def test_thinning_and_smoothing_keep_the_mean():
    points = [(float(i), float(i % 7)) for i in range(700)]
    assert len(thinned(points, 100)) == 100
    assert sum(y for _, y in thinned(points, 100)) / 100 == pytest.approx(3.0)
    assert smoothed(points)[0] == points[0] and abs(smoothed(points)[350][1] - 3) < 0.2
