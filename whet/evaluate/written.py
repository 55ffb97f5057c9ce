"""What a comparison leaves on the disk beside its page: Markdown, one JSON object a row, the figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from whet.console import table, write_json_atomic, write_text_atomic
from whet.evaluate.metrics import Metric
from whet.evaluate.page import write_page
from whet.evaluate.page_figures import change
from whet.evaluate.results import Comparison, shown

FLIPS = 20  # rows that got better, and as many that got worse, in the Markdown
CELL = 160  # characters of a text in a table
FILES = ("compare.html", "compare.md", "rows.jsonl", "summary.json")


def write_all(comparison: Comparison, folder: Path) -> list[Path]:
    """Page, Markdown, rows and figures, each written beside its name and renamed.

    Raises:
        OutputError: the folder cannot be written to.
    """
    paths = [folder / name for name in FILES]
    write_page(paths[0], comparison)
    write_text_atomic(paths[1], markdown(comparison))
    lines = [json.dumps(row_of(comparison, i)) for i in range(len(comparison.examples))]
    write_text_atomic(paths[2], "\n".join(lines) + "\n")
    write_json_atomic(paths[3], comparison.summary())
    return paths


def row_of(comparison: Comparison, i: int) -> dict[str, Any]:
    """One row with every answer and result."""
    example = comparison.examples[i]
    answers = {}
    for m, name in enumerate(comparison.names):
        said = comparison.said[m][i]
        results = {metric.name: _number(metric, comparison.results[metric.name][m, i]) for metric in comparison.metrics}
        answers[name] = {
            "text": said.answer.text,
            "tokens": said.answer.tokens,
            "ended": said.answer.ended,
            "results": results,
        }
    return {
        "row": example.number,
        "prompt": example.prompt if isinstance(example.prompt, str) else list(example.prompt),
        "expected": example.expected_text,
        **({"group": example.group} if example.group else {}),
        "answers": answers,
        "better": comparison.direction(len(comparison.names) - 1, i),
    }


def print_figures(comparison: Comparison) -> None:
    """The table of metrics on the terminal."""
    columns = ["metric", *comparison.names, "change", "95% interval", "better / worse"]
    table(columns, [row[: len(columns)] for row in _lines(comparison)], comparison.title)


def markdown(comparison: Comparison) -> str:
    """The whole comparison as Markdown."""
    verdict = comparison.verdict()
    heads = ["metric", *comparison.names, "change", "95% interval", "better / worse", "why"]
    parts = [
        f"# {_plain(comparison.title)}",
        f"**{_plain(verdict[:1].upper() + verdict[1:])}.**",
        *[f"> {_plain(remark)}" for remark in comparison.remarks],
        _table(heads, _lines(comparison)),
        *_confusions(comparison),
        *_flips(comparison),
        "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in comparison.facts.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _lines(comparison: Comparison) -> list[list[str]]:
    lines = []
    for metric in comparison.metrics:
        found = comparison.measured(metric)
        last = found[-1]
        flips = f"{last.better:,} / {last.worse:,}" if metric.better and last.difference is not None else ""
        values = [shown(metric, each.value.value) for each in found]
        lines.append([metric.title, *values, *change(metric, last), flips, metric.why or "asked for"])
    return lines


def _confusions(comparison: Comparison) -> list[str]:
    parts = []
    for m, name in enumerate(comparison.names):
        found = comparison.confusion(m)
        if found is not None:
            labels, counts = found
            rows = [[label, *map(str, row)] for label, row in zip(labels, counts.tolist(), strict=True)]
            parts.append(f"Labels, {_plain(name)} (rows: expected, columns: answered)")
            parts.append(_table(["", *labels, "other"], rows))
    return parts


def _flips(comparison: Comparison) -> list[str]:
    last, parts = len(comparison.names) - 1, []
    for sign, word in ((1, "better"), (-1, "worse")):
        rows = [i for i in range(len(comparison.examples)) if comparison.direction(last, i) == sign]
        if rows:
            body = [
                [_cell(comparison.examples[i].prompt_text), _cell(comparison.said[0][i].answer.text),
                 _cell(comparison.said[last][i].answer.text), _cell(comparison.examples[i].expected_text or "")]
                for i in rows[:FLIPS]
            ]  # fmt: skip
            more = f", {FLIPS} of them" if len(rows) > FLIPS else ""
            parts.append(f"## Got {word}: {len(rows):,} rows{more}")
            parts.append(_table(["prompt", comparison.names[0], comparison.names[last], "expected"], body))
    return parts


def _table(heads: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(_plain(cell) for cell in cells) + " |"

    return "\n".join([line(heads), "|" + "---|" * len(heads), *map(line, rows)])


def _cell(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= CELL else flat[: CELL - 1] + "…"


def _plain(text: str) -> str:
    """A text that Markdown shows as it is: no tags, no table borders, no lone surrogates."""
    safe = text.encode("utf-8", "replace").decode("utf-8")
    for character in "\\`*_[]|":
        safe = safe.replace(character, "\\" + character)
    return " ".join(safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())


def _number(metric: Metric, value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return math.exp(min(value, 700.0)) if metric.kind == "perplexity" else float(value)
