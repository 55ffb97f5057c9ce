"""``whet config schema``, ``whet config explain``, ``whet config check``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

config = typer.Typer()


@config.command()
def schema() -> None:
    """Print the JSON Schema of a config, for completion in editors."""
    import json

    from whet.config.schema import config_schema

    print(json.dumps(config_schema(), indent=2, ensure_ascii=False))


@config.command()
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as lora_r or datasets.0.type.", show_default=False)],
) -> None:
    """Say what a key means, its type, default, unit and state, with an example."""
    from whet.config.states import explain_key

    print(explain_key(key))


@config.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Config files.", show_default=False)],
) -> None:
    """Check config files without loading a model; exit code 2 where one has an error."""
    from whet.config.check import check_files, summary

    results = check_files(files)
    for result in results:
        print(*result.lines(), sep="\n")
    print(summary(results))
    if any(result.errors for result in results):
        raise typer.Exit(2)
