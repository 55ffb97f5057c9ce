"""What an export wrote, and what the comparison with the trained model found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whet.console import table
from whet.errors import ProofFailed, Unproved
from whet.export.verdict import Verdict

SAME_BYTES = "same bytes"


@dataclass(frozen=True)
class ProvedFile:
    """One written model.

    Attributes:
        quant: the quantisation of a GGUF; the dtype of a merged folder; "adapter".
        path: the file, or the folder.
        modelfile: the Modelfile beside a GGUF.
        bytes: size of all weights.
        verdict: None where it was not compared.
        copied: the weights are the trained files' own bytes, read back and compared.
    """

    quant: str
    path: Path
    modelfile: Path | None
    bytes: int
    verdict: Verdict | None = None
    copied: bool = False


@dataclass(frozen=True)
class ExportReport:
    """All files of one export. ``unproved`` says why nothing was compared, where a proof was asked for."""

    files: list[ProvedFile]
    unproved: Unproved | None = None

    @property
    def exit_code(self) -> int:
        """0 proved (or not asked for), 1 a file is not the trained model, 3 nothing here could compare."""
        if any(file.verdict is not None and not file.verdict.passed for file in self.files):
            return ProofFailed.exit_code
        return Unproved.exit_code if self.unproved is not None else 0

    def check(self) -> None:
        """Raise :class:`ProofFailed` or :class:`Unproved` where the export is not proved."""
        failed = [file for file in self.files if file.verdict is not None and not file.verdict.passed]
        if failed:
            raise ProofFailed(
                f"not the trained model: {', '.join(str(file.path) for file in failed)}",
                fix="do not use these files; the .verify.json beside each says what differs",
            )
        if self.unproved is not None:
            raise self.unproved

    def print(self) -> None:
        """One row for each file, on stdout."""
        columns = ["file", "MB", "same tokens", "mean KL", "99% KL", "top-1", "positions", "proof"]
        table(columns, [_row(file, self.unproved) for file in self.files])


def _row(file: ProvedFile, unproved: Unproved | None) -> list[object]:
    size, verdict = round(file.bytes / 1e6, 1), file.verdict
    if verdict is None:
        said = SAME_BYTES if file.copied else "unproved" if unproved else "not asked for"
        return [file.path.name, size, "", "", "", "", "", said]
    return [
        file.path.name,
        size,
        "yes" if verdict.tokens_identical else "NO",
        f"{verdict.kl_mean:.1e}",
        f"{verdict.kl_p99:.1e}",
        f"{verdict.top1_agreement:.1%}",
        verdict.positions,
        "passed" if verdict.passed else "FAILED",
    ]
