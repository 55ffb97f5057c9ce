"""The lengths of rows as one inline SVG."""

from __future__ import annotations

from html import escape

from whet.data.audit_report import Lengths

WIDTH, HEIGHT = 640, 200  # units of the picture; it is drawn as wide as its place
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 40  # room around the bars
LABELS = 8  # numbers below the bars, about


def histogram(lengths: Lengths, sequence_len: int) -> str:
    """Bars of row counts by tokens, with a line at sequence_len where it lies among them; "" without rows."""
    if not lengths.counts:
        return ""
    most = max(lengths.counts)
    bars = "".join(_bar(i, lengths, most, sequence_len) for i in range(len(lengths.counts)))
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_in_words(lengths)}">'
        f"{_counts_axis(most)}{bars}{_lengths_axis(lengths)}{_limit(lengths, sequence_len)}</svg>"
    )


def _x(index: float, lengths: Lengths) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * index / len(lengths.counts)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def _bar(index: int, lengths: Lengths, most: int, sequence_len: int) -> str:
    count, low, high = lengths.counts[index], lengths.edges[index], lengths.edges[index + 1]
    if not count:
        return ""
    left, right, top = _x(index, lengths), _x(index + 1, lengths), min(_y(count / most), HEIGHT - BOTTOM - 1.5)
    open_end = lengths.open_end and index == len(lengths.counts) - 1
    name = f"{low:,} tokens and more" if open_end else f"{low:,} to {high - 1:,} tokens"
    kind = "over" if low > sequence_len else "bar"
    return (
        f'<rect class="{kind}" x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
        f'height="{HEIGHT - BOTTOM - top:.1f}" rx="2"><title>{name}: {count:,} rows</title></rect>'
    )


def _counts_axis(most: int) -> str:
    parts = [f'<text x="{LEFT - 6}" y="{TOP - 13}" text-anchor="end">rows</text>']
    for value in sorted({0, most // 2, most}):
        y = _y(value / most)
        kind = "axis" if value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>')
    return "".join(parts)


def _lengths_axis(lengths: Lengths) -> str:
    every = max(1, round(len(lengths.edges) / LABELS))
    last = len(lengths.edges) - 1
    parts = []
    for i in range(0, len(lengths.edges), every):
        if lengths.open_end and i == last:
            continue
        x, y = _x(i, lengths), HEIGHT - BOTTOM
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle">{lengths.edges[i]:,}</text>')
    if lengths.open_end:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - BOTTOM + 17}" text-anchor="end">and more</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">tokens of a row</text>')
    return "".join(parts)


def _limit(lengths: Lengths, sequence_len: int) -> str:
    low, step = lengths.edges[0], lengths.edges[1] - lengths.edges[0]
    place = (sequence_len - low) / step
    if not 0 < place < len(lengths.counts):
        return ""
    x = _x(place, lengths)
    side = ("end", -5) if x > WIDTH * 0.75 else ("start", 5)
    return (
        f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 18}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x + side[1]:.1f}" y="{TOP - 10}" text-anchor="{side[0]}">sequence_len {sequence_len:,}</text>'
    )


def _in_words(lengths: Lengths) -> str:
    found = lengths.quantiles
    text = f"Rows have {found['min']:,} to {found['max']:,} tokens, half of them at most {found['median']:,}"
    return escape(text, quote=True)
