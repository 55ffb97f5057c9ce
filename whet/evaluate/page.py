"""compare.html: figures, rows side by side, and a blind vote, in one file that needs nothing else.

It loads nothing: no address, no font. Its one script is named by its hash in a content policy, so that no text of a
model or of the data can ever run; all of it is escaped too, and the script sets plain text only.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet.console import write_text_atomic
from whet.evaluate.diff import Piece, word_diff
from whet.evaluate.page_figures import confusions, figures
from whet.evaluate.page_script import SCRIPT
from whet.evaluate.page_style import STYLE
from whet.evaluate.results import Comparison, shown
from whet.text.html import safe

LONGEST = 20_000  # characters of one text that are shown
LONG_PROMPT = 700  # characters from which a prompt is folded
VOTE_SEED = 3407


def write_page(path: Path | str, comparison: Comparison) -> None:
    """Write the page beside ``path``, then rename it.

    Raises:
        OutputError: the place cannot be written to.
    """
    write_text_atomic(path, page(comparison))


def page(comparison: Comparison) -> str:
    """The whole page as text."""
    verdict = comparison.verdict()
    title = f"Comparison: {comparison.title}"
    parts = [
        _head(title),
        f'<header><h1>{safe(title)}</h1><p class="verdict">{safe(verdict[:1].upper() + verdict[1:])}.</p>'
        f"{_remarks(comparison.remarks)}{_facts(comparison.facts)}</header>",
        figures(comparison),
        confusions(comparison),
        _vote(),
        _rows(comparison),
        f'<script type="application/json" id="pairs">{_pairs(comparison)}</script>',
        "<footer>Written by whet. This file is complete: it loads nothing from a network.</footer></main>",
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def blind_pairs(comparison: Comparison, seed: int = VOTE_SEED) -> list[dict[str, str]]:
    """What is voted on: the first and the last model's answers where they differ, in an order drawn for each row."""
    draw = np.random.default_rng(seed)
    swapped = draw.random(len(comparison.examples)) < 0.5
    first, last = comparison.names[0], comparison.names[-1]
    found = []
    for i, example in enumerate(comparison.examples):
        texts = [(comparison.said[0][i].answer.text, first), (comparison.said[-1][i].answer.text, last)]
        if texts[0][0].strip() == texts[1][0].strip():
            continue
        (a, a_is), (b, b_is) = reversed(texts) if swapped[i] else texts
        found.append({"prompt": example.prompt_text, "a": a, "b": b, "a_is": a_is, "b_is": b_is})
    return found


def _pairs(comparison: Comparison) -> str:
    """As JSON that cannot end its element: every <, > and & is written as an escape."""
    rows = blind_pairs(comparison)
    name = hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()
    data: dict[str, Any] = {"id": name, "rows": rows, "names": [comparison.names[0], comparison.names[-1]]}
    text = json.dumps(data)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _head(title: str) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{safe(title)}</title><style>{STYLE}</style></head><body><main>"
    )


def _remarks(remarks: Sequence[str]) -> str:
    return "".join(f'<p class="remark">{safe(remark)}</p>' for remark in remarks)


def _facts(facts: dict[str, str]) -> str:
    entries = "".join(f'<dt>{safe(name)}</dt><dd dir="auto">{safe(value)}</dd>' for name, value in facts.items())
    return f'<details class="about"><summary>Models, rows, versions</summary><dl>{entries}</dl></details>'


def _vote() -> str:
    return (
        '<section id="vote" class="script" aria-label="Blind vote"><h2>Blind vote</h2>'
        '<p class="hint" id="vote-hint">Two answers, in an order drawn for each row; the models are named at the end. '
        "Keys: 1 or 2 for the better one, 0 for a tie, ← to go back, Esc to close.</p>"
        '<p><button type="button" id="vote-open">Vote blind</button></p>'
        '<div id="booth" hidden><p class="count" id="vote-count" aria-live="polite"></p>'
        '<pre class="prompt" id="vote-prompt" dir="auto"></pre><div class="two">'
        '<div><p class="label">Answer 1</p><pre id="vote-a" dir="auto"></pre></div>'
        '<div><p class="label">Answer 2</p><pre id="vote-b" dir="auto"></pre></div></div>'
        '<p class="keys"><button type="button" data-vote="a"><kbd>1</kbd> is better</button>'
        '<button type="button" data-vote="tie"><kbd>0</kbd> tie</button>'
        '<button type="button" data-vote="b"><kbd>2</kbd> is better</button>'
        '<button type="button" id="vote-back" class="quiet">← back</button>'
        '<button type="button" id="vote-end" class="quiet">finish</button></p></div>'
        '<div id="tally" hidden><p id="tally-text" class="verdict"></p><p><button type="button" id="vote-save">'
        'Save votes (JSONL)</button> <button type="button" id="vote-again" class="quiet">Start again</button></p></div>'
        "</section>"
    )


def _rows(comparison: Comparison) -> str:
    last = len(comparison.names) - 1
    kinds = [_kinds(comparison, last, i) for i in range(len(comparison.examples))]
    counts = {kind: sum(kind in each for each in kinds) for kind in ("changed", "better", "worse")}
    buttons = "".join(
        f'<button type="button" data-show="{kind}" aria-pressed="{"true" if kind == "all" else "false"}">'
        f"{kind.title()} ({count:,})</button>"
        for kind, count in {"all": len(kinds), **counts}.items()
    )
    about = f"{safe(comparison.names[last])} beside {safe(comparison.names[0])}, by {safe(comparison.main.title)}"
    return (
        '<section id="rows"><h2>Rows side by side</h2>'
        f'<p class="hint">Changed, better, worse: {about}. Marked words are not in the other answer.</p>'
        f'<p class="filter script">{buttons} '
        '<input type="search" id="find" placeholder="Find text" aria-label="Find text">'
        ' <label>words differ from <select id="against"><option value="first">the other answer</option>'
        '<option value="expected">what is expected</option></select></label></p>'
        '<p class="count script" id="rows-count"></p>'
        + "".join(_row(comparison, i, kind) for i, kind in enumerate(kinds))
        + "</section>"
    )


def _kinds(comparison: Comparison, model: int, row: int) -> list[str]:
    texts = [comparison.said[m][row].answer.text.strip() for m in (0, model)]
    direction = {1: "better", -1: "worse", 0: ""}[comparison.direction(model, row)]
    return [kind for kind in ("changed" if texts[0] != texts[1] else "", direction) if kind]


def _row(comparison: Comparison, i: int, kinds: Sequence[str]) -> str:
    example = comparison.examples[i]
    tag = f'<span class="tag">{safe(example.group)}</span>' if example.group else ""
    marks = "".join(f'<span class="tag {kind}">{kind}</span>' for kind in kinds if kind != "changed")
    texts = [said[i].answer.text for said in comparison.said]
    cells = "".join(_cell(comparison, m, i, texts) for m in range(len(texts)))
    gold = example.expected_text
    if gold is not None:
        cells += f'<div class="gold"><p class="label">expected</p><pre dir="auto">{_text(gold)}</pre></div>'
    return (
        f'<article data-kinds="{" ".join(kinds)}"><h3>Row {example.number or i + 1:,}{tag}{marks}</h3>'
        f'{_prompt(example.prompt_text)}<div class="cells">{cells}</div></article>'
    )


def _prompt(text: str) -> str:
    body = f'<pre class="prompt" dir="auto">{_text(text)}</pre>'
    if len(text) <= LONG_PROMPT:
        return body
    start = safe(text[:160].replace("\n", " "))
    return f'<details><summary dir="auto">{start} … ({len(text):,} characters)</summary>{body}</details>'


def _cell(comparison: Comparison, m: int, i: int, texts: Sequence[str]) -> str:
    said, text = comparison.said[m][i], texts[m]
    other = texts[-1] if m == 0 else texts[0]
    gold = comparison.examples[i].expected_text
    marks = " · ".join(part for metric in comparison.metrics[:3] if (part := _result(comparison, metric.name, m, i)))
    cut = "" if said.answer.ended else ' · <span class="cut">cut at the limit</span>'
    right = _right(comparison, m, i)
    first = f'<pre class="against-first" dir="auto">{_marked(text, other)}</pre>'
    expected = f'<pre class="against-expected" dir="auto">{_marked(text, gold)}</pre>' if gold is not None else ""
    sign = {True: '<b class="mark">✓</b> ', False: '<b class="mark">✗</b> ', None: ""}[right]
    kind = {True: "right", False: "wrong", None: "plain"}[right]
    return (
        f'<div class="{kind}{"" if gold is not None else " alone"}"><p class="label">{sign}{safe(comparison.names[m])}'
        f" <small>{marks}{cut}</small></p>{first}{expected}</div>"
    )


def _right(comparison: Comparison, m: int, i: int) -> bool | None:
    """Whether the main metric calls the answer right; None where it is no yes or no."""
    metric = comparison.main
    value = comparison.results[metric.name][m, i]
    return bool(value) if metric.kind == "share" and metric.name != "judge" and value in (0.0, 1.0) else None


def _result(comparison: Comparison, name: str, m: int, i: int) -> str:
    metric = next(metric for metric in comparison.metrics if metric.name == name)
    value = float(comparison.results[name][m, i])
    if metric.kind == "share" or not np.isfinite(value):
        return ""
    if metric.kind == "perplexity":
        return f"perplexity {shown(metric, float(np.exp(min(value, 700.0))))}"
    return f"{value:,.0f} tokens" if name == "length" else ""


def _marked(text: str, other: str | None) -> str:
    if not text:
        return "<i>(empty)</i>"
    if other is None or len(text) > LONGEST:
        return _text(text)
    return "".join(map(_piece, word_diff(text, other[:LONGEST])[0]))


def _piece(piece: Piece) -> str:
    return safe(piece.text) if piece.same else f"<mark>{safe(piece.text)}</mark>"


def _text(text: str) -> str:
    left = len(text) - LONGEST
    return (safe(text) if left <= 0 else f"{safe(text[:LONGEST])} … ({left:,} more characters)") or "<i>(empty)</i>"
