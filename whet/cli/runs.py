"""``whet runs``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER...]", help="Runs, or folders of runs; else this one.")
    ] = None,
) -> None:
    """Show the runs of a folder: what differs between their configs, loss, metrics, speed, memory."""
    from whet import api

    api.runs(folders or [Path()]).print()
