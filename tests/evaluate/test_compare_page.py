"""The page of a comparison, as a parser and as a browser read it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from pathlib import Path

import pytest
from browser import PROGRAM, Browser
from comparisons import made
from test_report import HOSTILE, Page

from whet.evaluate.page import blind_pairs, page, write_page
from whet.evaluate.written import markdown, row_of, write_all

NAMED = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
ROWS = [
    ("How is it?", "positive", ["negative", "positive"]),
    ("And this?", "negative", ["negative", "negative"]),
    ("And that?", "positive", ["positive", "negative words"]),
    ("Was ist los?", "negative", ["it is nice", "it is not nice"]),
]


def _script(text: str) -> str:
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]


def test_figures_rows_and_filters():
    text = page(made(ROWS))
    found = Page(text)
    assert "label accuracy" in found.text and "No clear difference: label accuracy 50% before, 50% after" in found.text
    assert "All (4)" in found.text and "Changed (3)" in found.text
    assert "Better (1)" in found.text and "Worse (1)" in found.text
    kinds = [attrs["data-kinds"] for tag, attrs in found.tags if tag == "article"]
    assert kinds == ["changed better", "", "changed worse", "changed"]
    marked = re.findall(r"<mark>(.*?)</mark>", text)
    assert "negative" in marked and "not " in marked  # words that the other answer lacks


def test_it_loads_nothing_and_only_its_own_script_may_run():
    text = page(made(ROWS))
    found = Page(text)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in found.tags}
    attributes = {name for _, attrs in found.tags for name in attrs}
    assert not attributes & {"src", "href", "srcset"} and not any(name.startswith("on") for name in attributes)
    assert "url(" not in text and "@import" not in text and "://" not in text
    policy = next(attrs["content"] for tag, attrs in found.tags if attrs.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(_script(text).encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_hostile_texts_stay_texts():
    hostile = HOSTILE + "</script><!--" + "\u2028"
    rows = [(hostile, hostile, [hostile, hostile + " more"]), *ROWS]
    mild = [("a", "b", ["c", "c more"]), *ROWS]
    bad, good = Page(page(made(rows, [hostile, "x" + hostile]))), Page(page(made(mild, ["x", "y"])))
    assert {tag for tag, _ in bad.tags} <= {tag for tag, _ in good.tags} | {"mark"}
    assert sum(tag == "script" for tag, _ in bad.tags) == 2
    data = json.loads(re.search(r'id="pairs">(.*?)</script>', page(made(rows)), re.DOTALL)[1])
    assert data["rows"][0]["prompt"] == hostile  # whole, and it did not end its element


def test_pairs_are_drawn_by_seed_and_leave_out_equal_answers():
    many = made([(f"q{i}", "", [f"first {i}", f"second {i}" if i else "first 0"]) for i in range(60)])
    pairs = blind_pairs(many)
    assert len(pairs) == 59 and pairs == blind_pairs(many) != blind_pairs(many, seed=1)
    first = sum(pair["a_is"] == "base" for pair in pairs)
    assert 15 < first < 45
    for pair in pairs:
        assert {pair["a_is"], pair["b_is"]} == {"base", "tuned1"}
        assert pair["a"].startswith("first" if pair["a_is"] == "base" else "second")
        assert set(pair) == {"prompt", "a", "b", "a_is", "b_is"}


def test_files(tmp_path: Path):
    comparison = made([*ROWS, ("|a|\n<b>", "positive", ["\ud800 `x`", "positive"])])
    paths = write_all(comparison, tmp_path / "out")
    assert [path.name for path in paths] == ["compare.html", "compare.md", "rows.jsonl", "summary.json"]
    lines = [json.loads(line) for line in paths[2].read_text().splitlines()]
    assert len(lines) == 5 and lines[0]["answers"]["tuned1"]["results"]["label"] == 1.0 and lines[0]["better"] == 1
    assert lines[2]["better"] == -1 and lines[0]["row"] == 1 and lines[1]["expected"] == "negative"
    summary = json.loads(paths[3].read_text())
    assert summary["n"] == 5 and summary["metrics"]["label"]["models"]["tuned1"]["better"] == 2
    text = markdown(comparison)
    assert "## Got worse: 1 rows" in text and "\\|a\\| &lt;b&gt;" in text
    assert row_of(comparison, 4)["answers"]["base"]["text"] == "\ud800 `x`"


@NAMED
def test_a_browser_filters_votes_and_saves(tmp_path: Path):
    hostile = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    rows = [*ROWS, (hostile, "positive", [hostile, "مرحبا بالعالم 分类以下文本的情感"])]
    comparison = made(rows, ["base <b>", "tuned"])
    write_page(tmp_path / "compare.html", comparison)
    pairs = blind_pairs(comparison)
    with Browser(downloads=tmp_path) as shown:
        shown.open((tmp_path / "compare.html").as_uri())
        visible = "[...document.querySelectorAll('#rows article')].filter(a => !a.hidden).length"
        assert shown.value(visible) == 5
        shown.click('[data-show="better"]')
        assert shown.value(visible) == 1
        assert shown.value("document.getElementById('rows-count').textContent") == "1 of 5 rows"
        shown.click('[data-show="all"]')
        shown.press("1")  # the vote is not open: nothing happens
        shown.click("#vote-open")
        before = shown.value("document.body.innerText")  # what can be seen while voting names no model
        assert "tuned" not in before and "base <b>" not in before and "Row 1 of 4" in before
        assert shown.value("document.getElementById('vote-a').textContent") == pairs[0]["a"]
        for key in ("1", "2", "2", "ArrowLeft", "0"):
            shown.press(key)
        assert "Row 4 of 4" in shown.value("document.getElementById('vote').innerText")
        shown.press("2")
        assert "Rows side by side" in shown.value("document.body.innerText")
        text = shown.value("document.getElementById('tally-text').textContent")
        votes = ["a", "b", "tie", "b"]
        wins = [pair[f"{v}_is"] for pair, v in zip(pairs, votes, strict=True) if v != "tie"]
        expected = f"tuned is better in {wins.count('tuned')}, base <b> in {wins.count('base <b>')}, a tie in 1 of 4"
        assert text.startswith(expected)
        shown.click("#vote-save")
        saved = tmp_path / "votes.jsonl"
        end = time.monotonic() + 20
        while not saved.is_file() and time.monotonic() < end:
            time.sleep(0.05)
        lines = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
        assert lines == [pair | {"vote": vote} for pair, vote in zip(pairs, votes, strict=True)]
        assert shown.value("document.title").startswith("Comparison")  # no hostile text ran
        assert shown.requests == [] and shown.complaints == []
