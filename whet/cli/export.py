"""``whet export``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

PROOF_FAILED, UNPROVED = 1, 3  # exit codes, as in whet.errors


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

    quants = [name.strip() for name in quant.split(",") if name.strip()]
    written = api.export(run, to=to, quants=quants, out=out, system=system, proof=not no_proof)
    table(["file", "MB", "same tokens", "mean KL", "top-1", "proof"], [_row(item, no_proof) for item in written])
    if no_proof:
        return
    verdicts = [item.verdict for item in written]
    if any(verdict is not None and not verdict.passed for verdict in verdicts):
        raise typer.Exit(PROOF_FAILED)
    if any(verdict is None for verdict in verdicts):
        raise typer.Exit(UNPROVED)


def _row(item: Any, no_proof: bool) -> list[object]:
    size = f"{item.path.stat().st_size / 1e6:.1f}"
    verdict = item.verdict
    if verdict is None:
        return [item.path.name, size, "", "", "", "not asked for" if no_proof else "unproved"]
    return [
        item.path.name,
        size,
        "yes" if verdict.tokens_identical else "NO",
        f"{verdict.kl_mean:.2e}",
        f"{verdict.top1_agreement:.1%}",
        "passed" if verdict.passed else "FAILED",
    ]
