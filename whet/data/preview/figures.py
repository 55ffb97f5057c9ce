"""The figures of a report in words, the same for the terminal and the page."""

from __future__ import annotations

from whet.data.audit_report import AuditReport, Lengths, Side
from whet.data.findings import rows
from whet.data.prepare import CUT_BEFORE_ANSWER, TOO_LONG

WHY = {
    "first": "the first row",
    "longest": "the longest row",
    "shortest": "the shortest row",
    "remark": "a row that stands out",
    "random": "a row drawn by seed",
}


def figures(side: Side, sequence_len: int) -> dict[str, str]:
    """Names and values, in the order to be shown."""
    named = {
        "rows read": f"{side.rows:,}",
        "rows used": f"{side.kept:,}",
        "tokens": f"{side.tokens:,}",
        "trained tokens": f"{side.trained_tokens:,}",
        "share trained": f"{100 * side.trained_share:.1f}%",
        "tokens a row": quantiles(side.lengths),
        f"longer than {sequence_len:,} tokens": longer(side),
    }
    if side.damaged:
        named["damaged lines"] = f"{side.damaged:,} skipped"
    for reason, count in side.dropped.items():
        if reason in (TOO_LONG, CUT_BEFORE_ANSWER):  # said by the line above
            continue
        named[f"left out: {reason}"] = f"{count:,}"
    named["exact copies"] = f"{side.duplicates:,}"
    if side.packed_rows and side.fill is not None:
        named["packed"] = f"{rows(side.packed_rows)} of {sequence_len:,} tokens, {100 * side.fill:.0f}% full"
    if abs(side.multiplier - 1) > 0.005:
        named["tokens in an epoch"] = f"{side.multiplier:.2f} times these"
    return named


def longer(side: Side) -> str:
    """Rows above sequence_len and what happens to them."""
    if not side.longer:
        return "0"
    dropped = side.longer - side.truncated
    parts = [f"{dropped:,} left out"] * (dropped > 0) + [f"{side.truncated:,} cut"] * (side.truncated > 0)
    return f"{side.longer:,} ({', '.join(parts)})"


def quantiles(lengths: Lengths) -> str:
    """Shortest, median and longest row."""
    found = lengths.quantiles
    if not found:
        return "no rows"
    return f"{found['min']:,} to {found['max']:,}, median {found['median']:,}, 95% up to {found['95%']:,}"


def verdict(report: AuditReport) -> str:
    """One line on all findings: "1 error, 2 warnings, 3 notes"."""
    parts = []
    for level in ("error", "warning", "note"):
        count = sum(finding.level == level for finding in report.findings)
        if count:
            parts.append(f"{count} {level}{'' if count == 1 else 's'}")
    return ", ".join(parts) or "nothing stands out"
