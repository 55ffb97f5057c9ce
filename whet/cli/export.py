"""``whet export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, adapter or model folder.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help="The format.")] = "gguf",
    quant: Annotated[
        str, typer.Option(metavar="NAMES", help="Quantisations: f32, f16, bf16, q8_0, q6_k, q4_k_m; several: f16,q8_0.")
    ] = "q8_0",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files go; else beside the run.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message of the Modelfile.")] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", metavar="TEXT", help="A file, an SPDX identifier or a text; else the base model's."),
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A PARAMETER of the Modelfile: temperature=0.")
    ] = None,
    ollama: Annotated[
        str | None, typer.Option(metavar="NAME", help="Create the model in Ollama; its address is OLLAMA_HOST's.")
    ] = None,
    no_proof: Annotated[bool, typer.Option("--no-proof", help="Do not compare the file with the model.")] = False,
) -> None:
    """Write a model as GGUF with a Modelfile, and prove that it is the trained model."""
    from whet import api

    quants = [name.strip() for name in quant.split(",") if name.strip()]
    names = api.ollama_names(ollama, quants) if ollama is not None else {}
    report = api.export(
        run,
        to=to,
        quants=quants,
        out=out,
        system=system,
        license=license_,
        parameters=parameter or [],
        proof=not no_proof,
    )
    report.print()
    for file in report.files:
        print(file.path)
    if names:
        api.hand_to_ollama(report, names)
    report.check()
