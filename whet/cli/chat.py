"""``whet chat``"""

from __future__ import annotations

from typing import Annotated, Any

import typer


def chat(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A run folder, adapter, model folder, GGUF, or ollama:NAME.", show_default=False
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Answer this one message and stop; -: all of stdin.")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, metavar="T", help="0: always the most likely token.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, metavar="P", help="Only the most likely tokens up to this probability [0.95]."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Only so many of the most likely tokens [40].")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, metavar="P", help="Only tokens with this share of the best one's probability [0.05]."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="The same seed, the same answer.")] = None,
    base: Annotated[str | None, typer.Option(metavar="PATH", help="The model that /compare puts beside it.")] = None,
) -> None:
    """Talk to a model, or ask it one thing."""
    from whet import api

    # What is not given is not passed on: the defaults stand in api.chat alone.
    options: dict[str, Any] = {"system": system, "max_tokens": max_tokens, "temperature": temperature} | {
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
        "base": base,
    }
    api.chat(path, prompt=prompt, **{key: value for key, value in options.items() if value is not None})
