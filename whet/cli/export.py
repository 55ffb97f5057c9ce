"""``whet export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    no_proof: Annotated[bool, typer.Option("--no-proof", help="Do not compare the file with the model.")] = False,
) -> None:
    """Write a model as GGUF with a Modelfile, and prove that it is the trained model."""
    from whet import api
    from whet.console import table
    from whet.errors import ProofFailed, Unproved
    from whet.llamacpp import INSTALL

    quants = [name.strip() for name in quant.split(",") if name.strip()]
    # Pairs of what was written and its verdict; None where nothing here could compare it.
    written = api.export(run, to=to, quants=quants, out=out, system=system, proof=not no_proof)
    rows = [_row(exported, verdict, "not asked for" if no_proof else "unproved") for exported, verdict in written]
    table(["file", "MB", "same tokens", "mean KL", "top-1", "proof"], rows)
    verdicts = [verdict for _, verdict in written]
    if any(verdict is not None and not verdict.passed for verdict in verdicts):
        raise ProofFailed("a file is not the trained model", fix="do not use it; the figures are in FILE.verify.json")
    if not no_proof and None in verdicts:
        raise Unproved("written, but not compared: llama.cpp is missing here", fix=INSTALL)


def _row(exported: Any, verdict: Any, without: str) -> list[object]:
    size = f"{exported.bytes / 1e6:.1f}"
    if verdict is None:
        return [exported.gguf.name, size, "", "", "", without]
    return [
        exported.gguf.name,
        size,
        "yes" if verdict.tokens_identical else "NO",
        f"{verdict.kl_mean:.2e}",
        f"{verdict.top1_agreement:.1%}",
        "passed" if verdict.passed else "FAILED",
    ]
