"""``whet eval``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def eval(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, adapter or model.", show_default=False)],
    tasks: Annotated[
        str, typer.Option(metavar="NAMES", help="Tasks of lm-eval, or YAML files: arc_easy,my_task.yaml.")
    ],
    before: Annotated[bool, typer.Option("--before", help="Also on the model that RUN was trained from.")] = False,
    shots: Annotated[int | None, typer.Option(min=0, metavar="N", help="Examples in each prompt.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Questions of each task.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Prompts at a time.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompts in the chat template.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go; else RUN/eval.")] = None,
) -> None:
    """Run tasks of lm-eval on a run; the results are stored in it."""
    from whet import api

    names = [part.strip() for part in tasks.split(",") if part.strip()]
    options = {"shots": shots, "limit": limit, "batch_size": batch_size}
    given = {key: value for key, value in options.items() if value is not None}
    api.evaluate(run, names, before=before, chat=chat, out=out, **given).print()
