"""An audit report on a terminal, in colour; elsewhere as plain text with ``[[`` ``]]`` around what is trained."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from whet.console import PLAIN_TABLE_WIDTH
from whet.data.audit_report import AuditReport, Finding, Lengths, ShownPart, ShownRow
from whet.data.preview.figures import WHY, figures, verdict
from whet.data.preview.marks import BREAK, SPACE, TAB, Marked, code_point, shortened
from whet.data.preview.pieces import Piece

# The text on a coloured ground has its own colour, so it can be read on light and on dark terminals.
TRAINED = ("#06281c on #a8dcc0", "#06281c on #86c9a6")  # neighbouring tokens differ
TRAINED_SPECIAL = "bold #ffffff on #1f7a55"
SPECIAL = "bold #3d2a00 on #f0cf8e"
FAINT = "bright_black"
LEVELS = {"error": "bold #ffffff on #b3372b", "warning": "bold #3d2a00 on #f0cf8e", "note": "bold #ffffff on #4a6a8a"}
LONG_RUN, SHOWN_HEAD, SHOWN_TAIL = 240, 140, 60  # pieces of one run; of a longer one its beginning and end are shown
BAR = 32  # columns of the longest bar


def print_report(report: AuditReport, console: Console | None = None) -> None:
    """Print the rows, the figures and the findings.

    Args:
        console: where; stdout when None. Without colours the trained text is put in ``[[`` ``]]``.
    """
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else PLAIN_TABLE_WIDTH, highlight=False)
    plain = not console.is_terminal or console.no_color
    if not plain:
        _print(console, report, plain)
        return
    with console.capture() as captured:
        _print(console, report, plain)
    for line in captured.get().rstrip("\n").split("\n"):  # the cells of a table are filled with spaces
        console.print(Text(line.rstrip()), soft_wrap=True)


def _print(console: Console, report: AuditReport, plain: bool) -> None:
    _head(console, report)
    if report.shown:
        console.print(_legend(plain))
    for row in report.shown:
        _row(console, row, plain)
    console.print()
    _heading(console, "the data", plain)
    _figures(console, report)
    _histogram(console, report.train.lengths, report.sequence_len)
    _findings(console, report.findings)
    console.print(Text(f"{verdict(report)}", style="bold"))


def _head(console: Console, report: AuditReport) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in report.about.items():
        grid.add_row(Text(name, style=FAINT), Text(value, overflow="fold"))
    console.print(grid)
    console.print()


def _heading(console: Console, title: str, plain: bool) -> None:
    console.print(Text(f"== {title}") if plain else Rule(title, style=FAINT, align="left"))


def _legend(plain: bool) -> Text:
    if plain:
        return Text(f"[[trained]]  not trained  {BREAK} line break  {SPACE} space  {TAB} tab")
    pairs = [
        ("trained", TRAINED[0]),
        (" ", ""),
        ("tokens", TRAINED[1]),
        ("  ", ""),
        ("special, trained", TRAINED_SPECIAL),
        ("  ", ""),
        ("special", SPECIAL),
        ("  not trained  ", ""),
        (f"{BREAK} line break  {SPACE} space  {TAB} tab", FAINT),
    ]
    return Text.assemble(*pairs)


def _row(console: Console, row: ShownRow, plain: bool) -> None:
    title = f"row {row.number:,}: {WHY[row.why]}, {row.tokens:,} tokens, {row.trained_tokens:,} trained"
    console.print()
    _heading(console, title, plain)
    for remark in row.remarks:
        console.print(Text(f"! {remark}", style=SPECIAL if not plain else ""))
    for part in row.parts:
        if part.title:
            console.print(Text(f"{part.title}:", style="bold"))
        console.print(part_text(part, plain), soft_wrap=plain, overflow=None if plain else "fold")


def part_text(part: ShownPart, plain: bool) -> Text:
    """The pieces of a text with their styles or markers; the middle of long runs is left out."""
    text, inside = Text(), False
    for number, (piece, parts, gap) in enumerate(shortened(part.pieces, LONG_RUN, SHOWN_HEAD, SHOWN_TAIL)):
        if piece is None:
            text.append(f" ... {gap:,} more tokens ... ", style=FAINT)
            continue
        if plain and piece.trained != inside:
            inside = piece.trained
            text.append("[[" if inside else "]]")
        style = "" if plain else _style(piece, number)
        for stretch in parts:
            text.append(visible(stretch), style=style)
    text.append("]]" if inside else "")
    if part.hidden:
        text.append(f" ... {part.hidden:,} more tokens", style=FAINT)
    return text


def visible(part: Marked) -> str:
    """A stretch of text with what is invisible replaced by marks; lines still break."""
    if part.kind == "space":
        return SPACE * len(part.text)
    if part.kind == "tab":
        return (TAB + "\t") * len(part.text)
    if part.kind == "break":
        return (BREAK + "\n") * len(part.text)
    if part.kind == "odd":
        return "".join(f"<{code_point(character)}>" for character in part.text)
    return part.text


def _style(piece: Piece, parity: int) -> str:
    if piece.special:
        return TRAINED_SPECIAL if piece.trained else SPECIAL
    return TRAINED[parity % 2] if piece.trained else ""


def _figures(console: Console, report: AuditReport) -> None:
    sides = {"training": figures(report.train, report.sequence_len)}
    if report.valid is not None:
        sides["validation"] = figures(report.valid, report.sequence_len)
    grid = Table.grid(padding=(0, 3))
    if len(sides) > 1:
        grid.add_row("", *(Text(name, style="bold") for name in sides))
    names = dict.fromkeys(name for named in sides.values() for name in named)
    for name in names:
        grid.add_row(Text(name, style=FAINT), *(Text(named.get(name, ""), overflow="fold") for named in sides.values()))
    console.print(grid)
    console.print()


def _histogram(console: Console, lengths: Lengths, sequence_len: int) -> None:
    if not lengths.counts:
        return
    grid = Table.grid(padding=(0, 1))
    most, total = max(lengths.counts), sum(lengths.counts)
    said = False
    for i, count in enumerate(lengths.counts):
        low, high = lengths.edges[i], lengths.edges[i + 1]
        open_end = lengths.open_end and i == len(lengths.counts) - 1
        name = f"{low:,} and more" if open_end else f"{low:,}" if high == low + 1 else f"{low:,} to {high - 1:,}"
        beyond = low > sequence_len
        bar = Text("█" * max(round(BAR * count / most), 1 if count else 0), style="yellow" if beyond else "green")
        remark = " above sequence_len" if beyond and not said else ""
        said = said or beyond
        grid.add_row(Text(name, style=FAINT, justify="right"), bar, f"{count:,} ({100 * count / total:.0f}%){remark}")
    console.print(Text("rows by length in tokens", style="bold"))
    console.print(grid)
    console.print()


def _findings(console: Console, findings: Sequence[Finding]) -> None:
    for finding in findings:
        console.print(Text.assemble((f" {finding.level} ", LEVELS[finding.level]), " ", (finding.what, "bold")))
        for line in (finding.meaning, f"to do: {finding.to_do}" if finding.to_do else ""):
            if line:
                console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
        console.print()
