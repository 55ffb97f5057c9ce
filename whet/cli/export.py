"""``whet export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.errors import ExportError

Imatrix = Annotated[
    str | None,
    typer.Option(metavar="TEXTS", help="Importance matrix from: run (its own rows), a file of texts, or a .gguf."),
]
License = Annotated[
    str | None,
    typer.Option("--license", metavar="TEXT", help="A file, an SPDX identifier or a text; else the base model's."),
]
Positions = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Next-token distributions that the proof compares (64).")
]


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run, adapter, checkpoint or model folder, a hub name, starter.", show_default=False
        ),
    ],
    to: Annotated[str, typer.Option(metavar="FORM", help="gguf, merged, adapter or adapter-gguf.")] = "gguf",
    quant: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Of a GGUF: q8_0 (the default), f32 f16 bf16 q6_k q5_k_m ... q2_k; several: f16,q8_0."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files go; else beside the run.")] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="Of an adapter that names another one.")] = None,
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="Of a merged model: bfloat16, float16 or float32.")
    ] = "bfloat16",
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message of the Modelfile.")] = None,
    license_: License = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A PARAMETER of the Modelfile: temperature=0.")
    ] = None,
    ollama: Annotated[
        str | None, typer.Option(metavar="NAME", help="Create the model in Ollama; its address is OLLAMA_HOST's.")
    ] = None,
    imatrix: Imatrix = None,
    positions: Positions = None,
    no_proof: Annotated[bool, typer.Option("--no-proof", help="Do not compare the file with the model.")] = False,
) -> None:
    """Write a model in one form, and prove that it is the trained model."""
    from whet import api

    quants = [name.strip() for name in (quant or "").split(",") if name.strip()]
    names = api.ollama_names(ollama, quants or ["q8_0"]) if ollama is not None else {}
    if names and to != "gguf":
        raise ExportError(f"--ollama with --to {to}", "--to gguf", "Ollama runs GGUF files")
    report = api.export(
        run,
        to=to,
        quants=quants,
        out=out,
        base=base,
        dtype=dtype,
        system=system,
        license=license_,
        parameters=parameter or [],
        imatrix=imatrix,
        positions=positions,
        proof=not no_proof,
    )
    report.print()
    for file in report.files:
        print(file.path)
    if names:
        api.hand_to_ollama(report, names)
    report.check()
