"""``whet chat``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def chat(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A run folder, adapter, model folder or GGUF.", show_default=False)
    ],
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Answer this one message and stop.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, metavar="T", help="0: always the most likely token.")
    ] = None,
) -> None:
    """Talk to a model, or ask it one thing."""
    from whet import api

    # What is not given is not passed on: the defaults stand in api.chat alone.
    options: dict[str, Any] = {"system": system, "max_tokens": max_tokens, "temperature": temperature}
    api.chat(path, prompt=prompt, **{key: value for key, value in options.items() if value is not None})
