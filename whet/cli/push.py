"""``whet push``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, adapter or model folder.", show_default=False)
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the hub.", show_default=False)],
    to: Annotated[
        str | None, typer.Option(metavar="FORM", help="adapter, merged or gguf; else the adapter if there is one.")
    ] = None,
    quant: Annotated[
        str, typer.Option(metavar="NAMES", help="Of gguf: q8_0,q4_k_m; else those that were exported.")
    ] = "",
    private: Annotated[bool, typer.Option("--private/--public", help="Who sees a new repository.")] = True,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="For the card: apache-2.0; else the base model's.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Else the hub's own login (hf auth login), which is safer.")
    ] = None,
) -> None:
    """Upload a model to the Hugging Face hub with a card written from its run."""
    from whet import api

    quants = [name.strip() for name in quant.split(",") if name.strip()]
    print(api.push(run, repo, to=to, quants=quants, private=private, token=token, license=license_))
