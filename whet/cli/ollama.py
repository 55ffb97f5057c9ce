"""``whet ollama serve``, ``whet ollama create``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ollama = typer.Typer()


@ollama.command()
def serve() -> None:
    """Start a local Ollama and wait until it answers; Ctrl-C stops it."""
    from whet import api

    raise typer.Exit(api.serve_ollama())


@ollama.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="[NAMESPACE/]MODEL[:TAG]", show_default=False)],
    file: Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="The Modelfile.")] = Path("Modelfile"),
) -> None:
    """Create a model in a running Ollama from a Modelfile; the program ollama is not needed here."""
    from whet import api

    api.create_in_ollama(name, file)
    print(f"ollama run {name}")
