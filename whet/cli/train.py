"""``whet train``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yml", help="The run's settings.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one setting; reaches into lists: datasets.0.path=x."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder, instead of output_dir.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")] = False,
) -> None:
    """Train a model as a YAML file says."""
    from whet import api

    folder = api.train(config, overrides=set_ or [], out=out, resume=resume)
    print(folder)
