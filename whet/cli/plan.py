"""``whet plan``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yml", help="The run's settings.", show_default=False)],
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="SIZE", help="Memory that training may take, such as 16GiB.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="DEVICE", help="Plan for another device: h200, or its memory, such as 24GiB."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one setting; reaches into lists: datasets.0.path=x."),
    ] = None,
) -> None:
    """Show memory, time and steps of a run before it is started; no weights are loaded."""
    from whet import api

    report = api.plan(config, max_memory=max_memory, gpu=gpu, overrides=set_ or [])
    report.print()
    report.check()
