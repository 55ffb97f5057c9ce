"""``whet preview``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preview(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yml", help="The run's settings.", show_default=False)],
    rows: Annotated[int, typer.Option(metavar="N", min=0, help="Training rows to show.")] = 3,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with all of it too.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one setting; reaches into lists: datasets.0.path=x."),
    ] = None,
) -> None:
    """Show the rows as tokens, and what is wrong with the data, before a model is loaded."""
    from whet import api

    report = api.preview(config, rows=rows, html=html, overrides=set_ or [])
    report.print()
    if html is not None:
        print(html)
    report.check()
