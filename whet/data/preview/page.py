"""The preview as one HTML file that needs nothing else.

No script, no address, no font from elsewhere; a content policy in the page forbids to load anything. Everything that
comes from data or a config is escaped. In a shown text each token is one element (``<b>`` trained, ``<i>`` special,
``<u>`` other), and the text of these elements is exactly the text of the tokens: marks for white space are drawn by the
style sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from whet.console import write_text_atomic
from whet.data.audit_report import AuditReport, Classes, Finding, ShownPart, ShownRow
from whet.data.preview.figures import WHY, figures, verdict
from whet.data.preview.histogram import histogram
from whet.data.preview.marks import BREAK, SPACE, TAB, Marked, code_point, shortened
from whet.data.preview.pieces import Piece
from whet.data.preview.style import STYLE
from whet.text.html import safe

CLASSES_SHOWN = 12
LONG_RUN, SHOWN_HEAD, SHOWN_TAIL = 2_000, 1_000, 500  # pieces; of a longer run its beginning and end are shown
KIND_MARKS = {"space": "w", "tab": "t", "break": "n", "odd": "o"}


def write_page(path: Path | str, report: AuditReport) -> None:
    """Write the page beside ``path``, then rename it.

    Raises:
        OutputError: the place cannot be written to.
    """
    write_text_atomic(path, page(report))


def page(report: AuditReport) -> str:
    """The whole page as text."""
    name = Path(report.about.get("config", "")).name
    title = f"Data preview: {name}" if name else "Data preview"
    return (
        "\n".join(
            part
            for part in (
                _head(title),
                f'<header><h1>{safe(title)}</h1><p class="verdict">{safe(_sentence(verdict(report)))}</p>'
                f"{_about(report.about)}{_links(report)}</header>",
                _findings(report.findings),
                _rows(report.shown),
                _figures(report),
                _lengths(report),
                _classes(report.train.classes),
                "<footer>Written by whet. This file is complete: it loads nothing from a network.</footer>",
                "</main></body></html>",
            )
            if part
        )
        + "\n"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) + "."


def _head(title: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{safe(title)}</title><style>{STYLE}</style></head><body><main>"
    )


def _about(about: Mapping[str, str]) -> str:
    entries = "".join(f'<dt>{safe(name)}</dt><dd dir="auto">{safe(value)}</dd>' for name, value in about.items())
    return f'<dl class="about">{entries}</dl>' if entries else ""


def _links(report: AuditReport) -> str:
    """Ways down the page, to the parts that it has."""
    places = {"findings": bool(report.findings), "rows": bool(report.shown), "figures": True}
    links = "".join(f'<a href="#{name}">{name.title()}</a>' for name, there in places.items() if there)
    return f'<nav aria-label="Parts of this page">{links}</nav>'


def _findings(findings: Sequence[Finding]) -> str:
    items = "".join(
        f'<li class="{finding.level}"><p class="level">{finding.level}</p>'
        f'<p class="what">{safe(_capital(finding.what))}</p>'
        f"<p>{safe(_sentence(finding.meaning))}</p>"
        + (f'<p class="do">To do: {safe(finding.to_do)}.</p>' if finding.to_do else "")
        + "</li>"
        for finding in findings
    )
    return f'<section id="findings"><h2>Findings</h2><ul class="findings">{items}</ul></section>' if items else ""


def _figures(report: AuditReport) -> str:
    train, valid = report.train, report.valid
    big = {
        "training rows": f"{train.kept:,}",
        "tokens": f"{train.tokens:,}",
        "of them trained": f"{100 * train.trained_share:.1f}%",
        **({"validation rows": f"{valid.kept:,}"} if valid else {}),
    }
    cards = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in big.items())
    sides = {"training": figures(train, report.sequence_len)}
    if valid:
        sides["validation"] = figures(valid, report.sequence_len)
    heads = "".join(f'<th scope="col">{name}</th>' for name in sides)
    names = dict.fromkeys(name for named in sides.values() for name in named)
    lines = "".join(
        f'<tr><th scope="row">{safe(name)}</th>'
        + "".join(f"<td>{safe(named.get(name, ''))}</td>" for named in sides.values())
        + "</tr>"
        for name in names
    )
    table = f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{lines}</tbody></table>"
    return (
        f'<section id="figures"><h2>Figures</h2><dl class="big">{cards}</dl><div class="wide">{table}</div></section>'
    )


def _lengths(report: AuditReport) -> str:
    picture = histogram(report.train.lengths, report.sequence_len)
    if not picture:
        return ""
    return f'<section><h2>Rows by length</h2><p class="hint">Training rows, before any cut.</p>{picture}</section>'


def _classes(classes: Classes | None) -> str:
    if classes is None:
        return ""
    total = sum(classes.counts.values())
    lines = "".join(
        f'<tr><th scope="row" dir="auto">{safe(name)}</th><td>{count:,}</td><td>{100 * count / total:.1f}%</td></tr>'
        for name, count in list(classes.counts.items())[:CLASSES_SHOWN]
    )
    more = len(classes.counts) - CLASSES_SHOWN
    rest = f'<p class="hint">and {more:,} more</p>' if more > 0 else ""
    return (
        f'<section><h2>Answers</h2><p class="hint">Always giving the first one is right in '
        f"{100 * classes.majority:.1f}% of the rows: the accuracy to beat.</p><table>"
        '<thead><tr><th scope="col">answer</th><th scope="col">rows</th><th scope="col">share</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>{rest}</section>"
    )


def _rows(shown: Sequence[ShownRow]) -> str:
    if not shown:
        return ""
    warned = sum(bool(row.remarks) for row in shown)
    none = '<p class="none">None of these rows stands out.</p>' if not warned else ""
    return (
        '<div class="rows" id="rows"><h2>Rows as the model sees them</h2>'
        '<input type="radio" name="rows" id="all" checked><input type="radio" name="rows" id="warned">'
        f'<div class="filter"><label for="all">All rows ({len(shown)})</label>'
        f'<label for="warned">Rows with warnings ({warned})</label></div>'
        f"{_legend()}{none}" + "".join(map(_row, shown)) + "</div>"
    )


def _legend() -> str:
    return (
        '<p class="legend"><span><b>trained</b> token</span><span><b class="s">special</b> trained</span>'
        "<span><i>special</i> not trained</span><span><u>other</u> token, read but not trained</span>"
        f"<span>{BREAK} line break &nbsp;{SPACE} space &nbsp;{TAB} tab</span></p>"
    )


def _row(row: ShownRow) -> str:
    remarks = "".join(f"<li>{safe(remark)}</li>" for remark in row.remarks)
    return (
        f"<article{' class=warned' if row.remarks else ''}><h3>Row {row.number:,}</h3>"
        f'<p class="meta">{WHY[row.why]} · {row.tokens:,} tokens · {row.trained_tokens:,} trained</p>'
        + (f'<ul class="remarks">{remarks}</ul>' if remarks else "")
        + "".join(map(_part, row.parts))
        + "</article>"
    )


def _part(part: ShownPart) -> str:
    title = f'<p class="part">{safe(part.title)}</p>' if part.title else ""
    tokens = "".join(
        _token(piece, parts) if piece else f"<em> … {gap:,} more tokens … </em>"
        for piece, parts, gap in shortened(part.pieces, LONG_RUN, SHOWN_HEAD, SHOWN_TAIL)
    )
    more = f"<em> … {part.hidden:,} more tokens</em>" if part.hidden else ""
    return f'{title}<div class="text" dir="auto">{tokens}{more}</div>'


def _token(piece: Piece, parts: Sequence[Marked]) -> str:
    name = "b" if piece.trained else "i" if piece.special else "u"
    kind = ' class="s"' if piece.trained and piece.special else ""
    return f"<{name}{kind}>{''.join(map(_stretch, parts))}</{name}>"


def _stretch(part: Marked) -> str:
    if part.kind == "text":
        return safe(part.text)
    kind = KIND_MARKS[part.kind]
    if part.kind == "odd":
        return "".join(f'<s class="o" data-c="{code_point(c)}">{safe(c)}</s>' for c in part.text)
    return "".join(f'<s class="{kind}">{character}</s>' for character in part.text)
