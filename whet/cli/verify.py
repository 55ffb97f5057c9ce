"""``whet verify``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .gguf file, a merged folder or an adapter folder.", show_default=False),
    ],
    against: Annotated[
        str, typer.Option(metavar="RUN", help="The trained model: a run folder or another form.", show_default=False)
    ],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows to compare on; else the run's validation rows.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base model, where the adapter names another one.")
    ] = None,
    positions: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Next-token distributions to compare; else 64.")
    ] = None,
) -> None:
    """Compare an exported model with the trained one: tokens, template, distributions, answers, end token."""
    from whet import api

    verdict = api.verify(file, against, data=data, base=base, positions=positions)
    verdict.print(file)
    print(f"{str(file).rstrip('/')}.verify.json")
    verdict.check(file)
