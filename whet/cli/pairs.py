"""``whet pairs``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pairs(
    files: Annotated[
        list[Path], typer.Argument(metavar="VOTES.jsonl...", help="Saved votes or rated answers.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the rows are written.")] = Path("pairs.jsonl"),
    kto: Annotated[bool, typer.Option("--kto", help="Single answers with a label, for rl: kto.")] = False,
) -> None:
    """Make preference rows of people's votes and thumbs."""
    from whet import api

    api.pairs(files, out=out, kto=kto)
    print(out)
