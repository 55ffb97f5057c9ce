"""The tables of the comparison's page: metrics of every model, confusion of labels."""

from __future__ import annotations

from whet.evaluate.metrics import Metric
from whet.evaluate.results import Comparison, Measured, shown
from whet.text.html import safe


def figures(comparison: Comparison) -> str:
    """One row for each metric, one column for each model, and what changed from the first to the last."""
    heads = "".join(f'<th scope="col">{safe(name)}</th>' for name in comparison.names)
    several = len(comparison.names) > 2
    lines = "".join(_line(comparison, metric) for metric in comparison.metrics)
    sentences = "".join(
        f"<li><b>{safe(name)}</b>: {safe(comparison.verdict(m))}</li>" for m, name in enumerate(comparison.names) if m
    )
    return (
        '<section id="figures"><h2>Figures</h2>'
        '<p class="hint">Small: the 95% interval. Of a change it is a paired bootstrap (10,000 resamples of the rows); '
        "a change in grey may be chance.</p>"
        f'<div class="wide"><table><thead><tr><th scope="col">metric</th>{heads}<th scope="col">change</th>'
        f'<th scope="col">better / worse rows</th></tr></thead><tbody>{lines}</tbody></table></div>'
        + (f'<ul class="verdicts">{sentences}</ul>' if several else "")
        + "</section>"
    )


def change(metric: Metric, found: Measured) -> tuple[str, str]:
    """A difference and its interval, as tables show them; "" for the first model, or without rows."""
    if found.difference is None:
        return "", ""
    part = found.difference
    if metric.kind == "share":
        value, low, high = (f"{100 * number:+.1f}" for number in (part.value, part.low, part.high))
        return f"{value} points", f"{low} to {high}"
    if metric.kind == "perplexity":
        value, low, high = (f"{100 * number:+.1f}%" for number in (part.value, part.low, part.high))
        return value, f"{low} to {high}"
    return f"{part.value:+.1f}", f"{part.low:+.1f} to {part.high:+.1f}"


def confusions(comparison: Comparison) -> str:
    """Of label accuracy: what was answered for each expected label, for every model."""
    tables = "".join(_confusion(comparison, m, name) for m, name in enumerate(comparison.names))
    if not tables:
        return ""
    hint = "A row for each expected label, a column for each answer; right answers stand on the diagonal."
    return f'<section><h2>Labels</h2><p class="hint">{hint}</p><div class="matrices">{tables}</div></section>'


def _line(comparison: Comparison, metric: Metric) -> str:
    found = comparison.measured(metric)
    cells = "".join(f"<td>{_value(metric, each)}</td>" for each in found)
    last = found[-1]
    value, ends = change(metric, last)
    p_value = f" · McNemar p {last.p_value:.2g}" if last.p_value is not None else ""
    kind = ("good" if _is_better(metric, last) else "bad") if last.clear and metric.better else "unclear"
    flips = f"{last.better:,} / {last.worse:,}" if metric.better and last.difference is not None else ""
    why = f"{last.n:,} rows; {metric.why or 'asked for'}"
    return (
        f'<tr><th scope="row">{safe(metric.title)}<small>{safe(why)}</small></th>'
        f'{cells}<td class="{kind}">{safe(value)}<small>{safe(ends)}{safe(p_value)}</small></td><td>{flips}</td></tr>'
    )


def _is_better(metric: Metric, found: Measured) -> bool:
    assert found.difference is not None
    return (found.difference.value > 0) == (metric.better == "higher")


def _value(metric: Metric, found: Measured) -> str:
    if not found.n:
        return "-"
    ends = f"{shown(metric, found.value.low)} to {shown(metric, found.value.high)}"
    return f"{safe(shown(metric, found.value.value))}<small>{safe(ends)}</small>"


def _confusion(comparison: Comparison, m: int, name: str) -> str:
    found = comparison.confusion(m)
    if found is None:
        return ""
    labels, counts = found
    heads = "".join(f'<th scope="col" dir="auto">{safe(label)}</th>' for label in labels)
    most = max(int(counts.max()), 1)
    lines = ""
    for i, label in enumerate(labels):
        cells = "".join(
            f'<td class="{"hit" if i == j else "miss"} s{_shade(int(count), most)}">{int(count)}</td>'
            for j, count in enumerate(counts[i])
        )
        lines += f'<tr><th scope="row" dir="auto">{safe(label)}</th>{cells}</tr>'
    return (
        f'<div class="wide"><table class="matrix"><caption>{safe(name)}</caption><thead><tr><td></td>{heads}'
        f'<th scope="col">other</th></tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _shade(count: int, most: int) -> int:
    """0 to 4: how dark a cell is."""
    return 0 if not count else 1 + (3 * count) // most
