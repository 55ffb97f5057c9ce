"""``whet compare``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Models = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Runs, adapters, checkpoints or models; the last one is the verdict's."),
]
Base = Annotated[str | None, typer.Option(metavar="MODEL", help="Compared with this; else with what RUN began as.")]
Data = Annotated[Path | None, typer.Option(metavar="FILE", help="Rows to ask; else those that the run held out.")]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="exact, normalised, label, sql, json, same_json, regex, preference, perplexity, ended, length, judge; "
        "the first decides. Else chosen from the rows.",
    ),
]


def compare(
    models: Models,
    base: Base = None,
    checkpoints: Annotated[
        str | None, typer.Option(metavar="STEPS", help="Checkpoints of RUN beside it: all, or 50,100.")
    ] = None,
    data: Data = None,
    type_: Annotated[str | None, typer.Option("--type", metavar="NAME", help="Type of the rows, as alpaca.")] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Prompt out of columns, as 'Q: {question} A:'; or a file of it.")
    ] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="With --prompt: the expected answer.")] = None,
    n: Annotated[int, typer.Option("--n", min=0, metavar="N", help="Rows, evenly spaced; 0: all.")] = 100,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = None,
    metrics: Metrics = None,
    database: Annotated[Path | None, typer.Option(metavar="FILE", help="SQLite database to run SQL on.")] = None,
    regex: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Found in the answer? With a group: the same as expected?")
    ] = None,
    judge: Annotated[str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server as judge.")] = None,
    judge_model: Annotated[str | None, typer.Option(metavar="NAME", help="The judging model there.")] = None,
    judge_key: Annotated[str | None, typer.Option(metavar="KEY", help="Its key; else OPENAI_API_KEY.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the report goes; else RUN/compare.")] = None,
) -> None:
    """Did training help? The same prompts before and after, measured and side by side."""
    from whet import api

    names = tuple(part.strip() for part in (metrics or "").split(",") if part.strip())
    # What is not given is not passed on: the defaults stand in whet.evaluate.compare.Options alone.
    options: dict[str, Any] = {
        "base": base,
        "checkpoints": checkpoints,
        "data": data,
        "kind": type_,
        "prompt": prompt,
        "answer": answer,
        "max_new_tokens": max_tokens,
        "database": database,
        "regex": regex,
        "judge": judge,
        "judge_model": judge_model,
        "judge_key": judge_key,
    }
    given = {key: value for key, value in options.items() if value is not None}
    report = api.compare(models, out=out, n=n, metrics=names, **given)
    report.print()
