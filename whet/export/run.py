"""``whet export``: from a trained model to files that are proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jinja2 import TemplateError

from whet.console import notice, table, warn
from whet.errors import ExportError, ProofFailed, Unproved
from whet.export.adapter import resolve_source
from whet.export.families import context_limit
from whet.export.folder import write_exports
from whet.export.licence import licence_text
from whet.export.modelfile import PROBE_SYSTEM
from whet.export.parameters import Value
from whet.export.probes import Messages
from whet.export.verify import POSITIONS, Verdict, require_llamacpp, verify_gguf
from whet.models.load import load_model, load_tokenizer
from whet.text.chat import ChatTemplate, chat_template_of


@dataclass(frozen=True)
class ProvedFile:
    """One written GGUF; ``verdict`` is None where it was not compared."""

    quant: str
    path: Path
    modelfile: Path
    bytes: int
    verdict: Verdict | None = None


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


def export_run(
    path: Path | str,
    out_dir: Path | str | None = None,
    quants: Sequence[str] = ("q8_0",),
    *,
    system: str | None = None,
    parameters: Mapping[str, Value] | None = None,
    license: str | None = None,
    proof: bool = True,
    positions: int = POSITIONS,
    probes: Sequence[Messages] | None = None,
    threads: int | None = None,
) -> ExportReport:
    """Write the GGUF files and Modelfiles of a trained model, then compare each with the model.

    Args:
        path: a run folder, an adapter folder, a checkpoint folder or ``starter``.
        out_dir: None writes into ``gguf`` in that folder.
        system: a system message for the Modelfile.
        parameters: more PARAMETERs for it, such as ``{"temperature": 0}``.
        license: a file, an SPDX identifier or a text; None takes what the base model says, "" none.
        positions: next-token distributions to compare for each file.
        probes: conversations to compare on; None takes whet's own.
        threads: CPU threads of llama.cpp; None leaves the choice to it.

    Raises:
        ModelError: no model there.
        ExportError: something that cannot be exported exactly.
        OutputError: the disk is full or the place not writable.
    """
    source, tokenizer_dir = resolve_source(path)
    tokenizer = load_tokenizer(str(tokenizer_dir), {})
    template = _template(tokenizer)
    pieces = template.pieces if template is not None else None
    if system is not None and pieces is None:
        _check_system(tokenizer)
    target = Path(out_dir) if out_dir is not None else _beside(path)
    written = write_exports(
        source,
        tokenizer_dir,
        target,
        quants,
        name=_name(path),
        template=pieces,
        chat_template=template.jinja if template is not None else "",
        stops=template.stops if template is not None else (),
        no_template=template.no_go if template is not None else "",
        system=system,
        num_ctx=_context(path, context_limit(source.config)),
        parameters=parameters,
        license=licence_text(license, source.folder),
    )
    files = [ProvedFile(item.quant, item.gguf, item.modelfile, item.bytes) for item in written]
    return _prove(files, str(path), positions, probes, threads) if proof else ExportReport(files)


def _prove(
    files: list[ProvedFile], path: str, positions: int, probes: Sequence[Messages] | None, threads: int | None
) -> ExportReport:
    try:
        require_llamacpp(files[0].path)
    except Unproved as reason:
        return ExportReport(files, reason)
    model, tokenizer = load_model(path, dtype=torch.float32)
    verdicts = [verify_gguf(file.path, model, tokenizer, probes, positions, threads=threads) for file in files]
    return ExportReport([replace(file, verdict=verdict) for file, verdict in zip(files, verdicts, strict=True)])


def _template(tokenizer: Any) -> ChatTemplate | None:
    """The template for the Modelfile, with a word where it has none."""
    template = chat_template_of(tokenizer)
    if template is None:
        warn(
            "the model has no chat template: the GGUF and the Modelfile hold none, and a prompt is continued as it is. "
            "If it was trained on questions and answers, give the text exactly as in training"
        )
    elif template.go is None:
        notice(
            f"this chat template has no Ollama form that writes the same text ({template.no_go}): the Modelfile has no "
            "TEMPLATE, and Ollama uses the Jinja in the GGUF"
        )
    return template


def _check_system(tokenizer: Any) -> None:
    """Refuse a system message that the model's Jinja would drop."""
    messages = [{"role": "system", "content": PROBE_SYSTEM}, {"role": "user", "content": "?"}]
    try:
        kept = bool(tokenizer.chat_template) and PROBE_SYSTEM in tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError:
        kept = False
    if not kept:
        raise ExportError(
            "a system message was given, but the model's chat template has no place for one",
            fix="leave out the system message, or train with one",
        )


def _beside(path: Path | str) -> Path:
    return Path(path) / "gguf" if Path(path).is_dir() else Path(f"{_name(path)}-gguf")


def _name(path: Path | str) -> str:
    folder = Path(path)
    whole = folder.resolve() if folder.is_dir() else folder
    return whole.parent.name if whole.name in ("adapter", "model") else whole.name


def _context(path: Path | str, limit: int) -> int:
    """Tokens of context for Ollama: the length of the training rows, else what the model can."""
    config = Path(path) / "config.yml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None
    trained = settings.get("sequence_len") if isinstance(settings, dict) else None
    return min(int(trained), limit) if trained else limit


def _row(file: ProvedFile, unproved: Unproved | None) -> list[object]:
    size, verdict = round(file.bytes / 1e6, 1), file.verdict
    if verdict is None:
        return [file.path.name, size, "", "", "", "", "", "unproved" if unproved else "not asked for"]
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


__all__ = ["ExportReport", "ProvedFile", "export_run"]
