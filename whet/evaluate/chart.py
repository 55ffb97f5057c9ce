"""A loss curve as one inline SVG.

The lines are drawn in a picture of their own that stretches with the page; the labels stand outside of it, at
percentages of the width. So the text keeps its size on a phone and on a wide screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from whet.console import format_figure

MOST_POINTS = 600  # more than the pixels of a narrow page show nothing
HEIGHT, TOP, BOTTOM = 280, 12, 44  # pixels: the whole picture, above the plot, below it
UNITS = 1000  # width and height of the stretched picture, in its own units
SMOOTH_FROM = 12  # points: fewer are easy to read as they are

Point = tuple[float, float]


def loss_curve(curve: Sequence[Point]) -> str:
    """The curve of ``(step, loss)`` points as SVG: thin as measured, thick as a moving average.

    Points whose loss is not a finite number are left out; an empty text is returned when none is left.
    """
    points = sorted((float(x), float(y)) for x, y in curve if math.isfinite(y) and math.isfinite(x))
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low_x, high_x = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    low_x = 0.0 if 0 < low_x < 0.1 * high_x else low_x
    y_ticks = ticks(0.0 if 0 <= min(ys) < 0.5 * max(ys) else min(ys), max(ys))
    frame = (low_x, high_x, y_ticks[0], y_ticks[-1])
    return "".join(
        [
            f'<svg class="curve" width="100%" height="{HEIGHT}" role="img" aria-label="{_in_words(points)}">',
            *_y_axis(y_ticks),
            *_x_axis(low_x, high_x),
            f'<svg x="0" y="{TOP}" width="100%" height="{HEIGHT - TOP - BOTTOM}" viewBox="0 0 {UNITS} {UNITS}"'
            ' preserveAspectRatio="none" overflow="visible">',
            *_lines(points, frame),
            "</svg></svg>",
        ]
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, of which the first is at most ``low`` and the last at least ``high``."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.1, low + (abs(low) or 1) * 0.1
    rough = (high - low) / about
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points: means of neighbours."""
    size = math.ceil(len(points) / most)
    return [_mean(points[i : i + size]) for i in range(0, len(points), size)] if size > 1 else list(points)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A centred moving average over about a twentieth of the points, narrower at both ends."""
    half = max(1, len(points) // 40)
    result = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        result.append((x, _mean(points[i - reach : i + reach + 1])[1]))
    return result


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _lines(points: Sequence[Point], frame: tuple[float, float, float, float]) -> list[str]:
    shown = thinned(points)
    if len(shown) == 1:  # a line without length and with round ends is drawn as a dot
        shown = shown * 2
    if len(shown) < SMOOTH_FROM:
        return [_line(shown, frame, "smooth")]
    return [_line(shown, frame, "raw"), _line(smoothed(shown), frame, "smooth")]


def _line(points: Sequence[Point], frame: tuple[float, float, float, float], kind: str) -> str:
    low_x, high_x, low_y, high_y = frame
    places = " ".join(
        f"{UNITS * (x - low_x) / (high_x - low_x):.1f},{UNITS * (high_y - y) / (high_y - low_y):.1f}" for x, y in points
    )
    return f'<polyline class="{kind}" points="{places}" vector-effect="non-scaling-stroke"/>'


def _y_axis(values: Sequence[float]) -> list[str]:
    parts = ['<text class="name" x="-8" y="-6" text-anchor="end">loss</text>']
    for i, value in enumerate(values):
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - i / (len(values) - 1))
        kind = "axis" if i == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    return parts


def _x_axis(low: float, high: float) -> list[str]:
    parts, y = [], HEIGHT - BOTTOM
    for value in ticks(low, high, about=6):
        share = 100 * (value - low) / (high - low)
        if 0 <= share <= 100 and value == int(value):
            anchor = "end" if share > 96 else "middle"
            parts.append(f'<line class="axis" x1="{share:.2f}%" x2="{share:.2f}%" y1="{y}" y2="{y + 5}"/>')
            parts.append(f'<text x="{share:.2f}%" y="{y + 19}" text-anchor="{anchor}">{value:,.0f}</text>')
    parts.append(f'<text class="name" x="50%" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    return parts


def _in_words(points: Sequence[Point]) -> str:
    (first, start), (last, end) = points[0], points[-1]
    text = f"Loss {format_figure(start)} at step {first:,.0f}, {format_figure(end)} at step {last:,.0f}"
    return escape(text, quote=True)
