"""``whet quickstart``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is written.")] = Path("whet-quickstart"),
) -> None:
    """Train the model inside whet on its sample task, prove the export, ask it a question."""
    from whet.sample import quickstart as sample

    sample.run(out)
