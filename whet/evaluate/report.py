"""report.html: what a run did, in one file that needs nothing else.

No script, no address, no font from elsewhere. All text that comes from data or a model is escaped, and a content
policy in the page forbids to load anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whet.console import format_figure, format_seconds, write_text_atomic
from whet.evaluate.before_after import Case, Comparison, verdict
from whet.evaluate.chart import Point, loss_curve
from whet.evaluate.report_style import STYLE
from whet.evaluate.tasks.sql import wilson_interval
from whet.text.html import safe

SAMPLES = 12
LONGEST_TEXT = 2_000  # characters of one answer that are shown
WIDE_VALUE = 28  # characters: a longer value, such as a path, gets a row of its own


def write_report(
    path: Path | str,
    *,
    title: str,
    summary: Mapping[str, Any],
    curve: Sequence[Point],
    comparison: Comparison | None,
    samples: int = SAMPLES,
    notes: Sequence[str] = (),
) -> None:
    """Write the report beside ``path``, then rename it.

    Args:
        title: what was done, for example "Questions to SQL".
        summary: figures by name; an inner mapping becomes "name: inner name".
        curve: ``(step, loss)`` as measured during training.
        comparison: before and after; None leaves that part out.
        samples: how many cases are shown, evenly spaced over all cases, so that they are not the best ones.
        notes: sentences for the end of the report.

    Raises:
        OutputError: the place cannot be written to.
    """
    parts = [
        _head(title),
        _hero(title, comparison),
        *([_bars(comparison)] if comparison else []),
        _curve(curve),
        *([_samples(comparison, samples)] if comparison and samples else []),
        _summary(summary),
        _notes(notes),
        "<footer>Written by whet. This file is complete: it loads nothing from a network.</footer>",
        "</main></body></html>",
    ]
    write_text_atomic(path, "\n".join(part for part in parts if part) + "\n")


def evenly_spaced(cases: Sequence[Case], count: int) -> list[Case]:
    """``count`` cases from the first to the last, or all of them."""
    if count >= len(cases):
        return list(cases)
    if count == 1:
        return [cases[0]]
    return [cases[round(i * (len(cases) - 1) / (count - 1))] for i in range(count)]


def _head(title: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{safe(title)}</title><style>{STYLE}</style></head><body><main>"
    )


def _hero(title: str, comparison: Comparison | None) -> str:
    if comparison is None:
        return f'<header class="hero"><h1>{safe(title)}</h1></header>'
    sentence = verdict(comparison)
    return (
        f'<header class="hero"><h1>{safe(title)}</h1>'
        f'<p class="numbers"><span class="was">{_percent(comparison.accuracy_before)}</span> '
        f'<span class="to" aria-label="to">→</span> '
        f'<span class="now">{_percent(comparison.accuracy_after)}</span></p>'
        f'<p class="verdict">{safe(sentence[0].upper() + sentence[1:])}.</p></header>'
    )


def _bars(comparison: Comparison) -> str:
    rows = {"All questions": (len(comparison.cases), comparison.accuracy_before, comparison.accuracy_after)}
    if len(comparison.by_group) > 1:
        rows |= comparison.by_group
    return (
        "<section><h2>Right answers, before and after</h2>"
        '<p class="hint">The thin line on a bar is the 95% interval.</p><div class="bars">'
        + "".join(
            f"<div><h3>{safe(name)} <small>{n:,} {'question' if n == 1 else 'questions'}</small></h3>"
            f"{_bar('before', before, n)}{_bar('after', after, n)}</div>"
            for name, (n, before, after) in rows.items()
        )
        + "</div></section>"
    )


def _bar(kind: str, share: float, n: int) -> str:
    low, high = wilson_interval(round(share * n), n)
    return (
        f'<div class="bar {kind}"><span>{kind}</span><div class="track">'
        f'<div class="fill" style="width:{100 * share:.2f}%"></div>'
        f'<div class="range" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></div>'
        f"</div><b>{_percent(share)}</b></div>"
    )


def _curve(curve: Sequence[Point]) -> str:
    picture = loss_curve(curve)
    if not picture:
        return '<section><h2>Loss during training</h2><p class="hint">No loss was recorded.</p></section>'
    left_out = sum(not math.isfinite(loss) for _, loss in curve)
    hint = "Thin: each step as measured. Thick: the moving average. Lower is better."
    if left_out:
        hint += f" {left_out:,} steps whose loss is not a number are left out."
    return (
        f'<section><h2>Loss during training</h2><p class="hint">{hint}</p><div class="plot">{picture}</div></section>'
    )


def _samples(comparison: Comparison, count: int) -> str:
    shown = evenly_spaced(comparison.cases, count)
    hint = f"{len(shown):,} of {len(comparison.cases):,} questions, evenly spaced and not chosen by result."
    return (
        f'<section class="samples"><h2>Samples</h2><p class="hint">{hint}</p><table>'
        '<thead><tr><th scope="col">expected</th><th scope="col">before</th><th scope="col">after</th></tr></thead>'
        + "".join(map(_sample, shown))
        + "</table></section>"
    )


def _sample(case: Case) -> str:
    tag = f'<span class="tag">{safe(case.group)}</span>' if case.group else ""
    return (
        f'<tbody><tr><th class="question" colspan="3" scope="rowgroup" dir="auto">{safe(_short(case.question))}{tag}'
        f"</th></tr><tr>{_cell('expected', case.gold, None)}{_cell('before', case.before, case.before_ok)}"
        f"{_cell('after', case.after, case.after_ok)}</tr></tbody>"
    )


def _cell(name: str, text: str, right: bool | None) -> str:
    kind, mark = {None: ("gold", ""), True: ("right", "✓ right"), False: ("wrong", "✗ wrong")}[right]
    body = f'<pre dir="auto">{safe(_short(text)) or "<i>(empty)</i>"}</pre>'
    return f'<td class="{kind}"><p class="label">{name} <span class="mark">{mark}</span></p>{body}</td>'


def _short(text: str) -> str:
    left = len(text) - LONGEST_TEXT
    return text if left <= 0 else f"{text[:LONGEST_TEXT]} … ({left:,} more characters)"


def _summary(summary: Mapping[str, Any]) -> str:
    entries = "".join(_entry(name, value) for name, value in _entries(summary))
    return f"<section><h2>Figures</h2><dl>{entries}</dl></section>" if entries else ""


def _entry(name: str, value: str) -> str:
    wide = ' class="wide"' if len(value) > WIDE_VALUE else ""
    return f'<div{wide}><dt>{safe(name)}</dt><dd dir="auto">{safe(value)}</dd></div>'


def _entries(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in summary.items():
        name = prefix + str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield from _entries(value, f"{name}: ")
        else:
            yield re.sub(" seconds$", " time", name), _figure(str(key), value)


def _figure(key: str, value: object) -> str:
    """A value as people read it; shares and durations are known by the names that summary.json gives them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not known"
    if isinstance(value, list | tuple):
        return " to ".join(_figure(key, item) for item in value) if "interval" in key else ", ".join(map(str, value))
    if not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "not a number"
    if key.startswith("accuracy"):
        return f"{100 * value:.1f}%"
    return format_seconds(value) if key.endswith("_seconds") else format_figure(value)


def _notes(notes: Sequence[str]) -> str:
    lines = "".join(f'<li dir="auto">{safe(note)}</li>' for note in notes)
    return f"<section><h2>Notes</h2><ul>{lines}</ul></section>" if lines else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"
