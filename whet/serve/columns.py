"""Two answers beside each other."""

from __future__ import annotations

import sys

from whet.console import PLAIN_TABLE_WIDTH


def print_columns(titles: tuple[str, str], texts: tuple[str, str], notes: tuple[str, str]) -> None:
    """Print two texts on stdout in two columns of the same width, with a note below each."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_footer=True, expand=True, pad_edge=False)
    for title, note in zip(titles, notes, strict=True):
        table.add_column(Text(title), footer=Text(note, style="dim"), ratio=1, overflow="fold")
    table.add_row(*(Text(text) for text in texts))
    Console(width=None if sys.stdout.isatty() else PLAIN_TABLE_WIDTH, highlight=False).print(table)
