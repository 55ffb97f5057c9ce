"""``whet export``: from a trained model to files that are proved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError

from whet.config.nearest import did_you_mean
from whet.console import notice, warn
from whet.errors import ExportError, Unproved
from whet.export.adapter import Origin, find_origin, run_folder_of
from whet.export.calibration import OWN_ROWS, calibration_texts, collect_importance
from whet.export.copied import check_copy
from whet.export.families import context_limit, family_of
from whet.export.folder import write_exports
from whet.export.forms import FORMS, write_form
from whet.export.importance import Importance, read_importance
from whet.export.licence import licence_text
from whet.export.modelfile import PROBE_SYSTEM
from whet.export.parameters import Value
from whet.export.probes import Messages
from whet.export.prove import Proof
from whet.export.reference import load_reference
from whet.export.report import ExportReport, ProvedFile
from whet.export.verify import POSITIONS, require_llamacpp
from whet.models.load import load_tokenizer
from whet.text.chat import ChatTemplate, chat_template_of

DEFAULT_QUANTS = ("q8_0",)


def export_run(
    path: Path | str,
    out_dir: Path | str | None = None,
    quants: Sequence[str] = (),
    *,
    to: str = "gguf",
    base: Path | str | None = None,
    dtype: str = "bfloat16",
    system: str | None = None,
    parameters: Mapping[str, Value] | None = None,
    license: str | None = None,
    imatrix: Path | str | None = None,
    proof: bool = True,
    positions: int | None = None,
    probes: Sequence[Messages] | None = None,
    threads: int | None = None,
) -> ExportReport:
    """Write a trained model in one form, then compare what was written with the model.

    Args:
        path: a run folder, an adapter folder, a checkpoint folder, a name on the hub or ``starter``.
        out_dir: None writes into a folder of the form's name in that folder.
        quants: of GGUF files, each once; none means q8_0, for an adapter f32.
        to: one of ``FORMS``.
        base: the model that an adapter belongs on, where the one named in the adapter is not it.
        dtype: of a merged model.
        system: a system message for the Modelfile.
        parameters: more PARAMETERs for it, such as ``{"temperature": 0}``.
        license: a file, an SPDX identifier or a text; None takes what the base model says, "" none.
        imatrix: texts for an importance matrix: ``run``, a file of text or rows, or a matrix in GGUF; None: no matrix.
        positions: next-token distributions to compare for each file; None: 64.
        probes: conversations to compare on; None takes whet's own.
        threads: CPU threads of llama.cpp; None leaves the choice to it.

    Raises:
        ModelError: no model there.
        ExportError: something that cannot be exported exactly.
        OutputError: the disk is full or the place not writable.
    """
    _check_form(to, quants, system)
    _check_imatrix(to, imatrix)
    origin = find_origin(path, base)
    target = Path(out_dir) if out_dir is not None else _beside(path, to)
    _spare_the_model(target, origin)
    if to == "gguf":
        files = _write_gguf(path, origin, target, quants or DEFAULT_QUANTS, system, parameters, license, imatrix)
    else:
        files = write_form(to, origin, target, quants, dtype, name=_name(path))
    if not proof:
        return ExportReport(files)
    if to == "adapter":
        check_copy(Path(str(origin.place.adapter)), target)
        return ExportReport([replace(file, copied=True) for file in files])
    return _prove(files, path, origin, POSITIONS if positions is None else positions, probes, threads)


def _prove(
    files: list[ProvedFile],
    path: Path | str,
    origin: Origin,
    positions: int,
    probes: Sequence[Messages] | None,
    threads: int | None,
) -> ExportReport:
    if any(file.path.is_file() for file in files):
        try:
            require_llamacpp(files[0].path)
        except Unproved as reason:
            return ExportReport(files, reason)
    proof = Proof(path, origin=origin, probes=probes, positions=positions, threads=threads)
    return ExportReport([replace(file, verdict=proof.of(file.path)) for file in files])


def _write_gguf(
    path: Path | str,
    origin: Origin,
    target: Path,
    quants: Sequence[str],
    system: str | None,
    parameters: Mapping[str, Value] | None,
    license: str | None,
    imatrix: Path | str | None,
) -> list[ProvedFile]:
    source = origin.source
    tokenizer = load_tokenizer(str(origin.tokenizer_dir), {})
    template = _template(tokenizer)
    pieces = template.pieces if template is not None else None
    if system is not None and pieces is None:
        _check_system(tokenizer)
    written = write_exports(
        source,
        origin.tokenizer_dir,
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
        importance=_importance(imatrix, path, origin) if imatrix is not None else None,
    )
    return [ProvedFile(item.quant, item.gguf, item.modelfile, item.bytes) for item in written]


def _importance(asked: Path | str, path: Path | str, origin: Origin) -> Importance:
    if Path(asked).suffix == ".gguf":
        return read_importance(asked)
    texts = calibration_texts(asked, path, load_tokenizer(str(origin.tokenizer_dir), {}))
    reference = load_reference(origin, str(path))
    if reference.streamed:
        raise ExportError(
            "an importance matrix of a model that does not fit into memory here",
            "a machine with more memory, or a matrix that was made on one (--imatrix FILE.gguf)",
        )
    return collect_importance(reference.model, texts, family_of(origin.source.config).arch)


def _check_imatrix(to: str, imatrix: Path | str | None) -> None:
    if imatrix is None:
        return
    if to != "gguf":
        raise ExportError(f"an importance matrix for --to {to}", "--to gguf", "leave it out")
    if str(imatrix) != OWN_ROWS and not Path(imatrix).is_file():
        raise ExportError(f"no file {imatrix} for --imatrix", f"a file, or {OWN_ROWS} for the run's own rows")


def _check_form(to: str, quants: Sequence[str], system: str | None) -> None:
    if to not in FORMS:
        raise ExportError(f"--to {to}", f"one of {', '.join(FORMS)}", did_you_mean(to, FORMS))
    if quants and to not in ("gguf", "adapter-gguf"):
        raise ExportError(f"quantisations for --to {to}", "--to gguf", "leave --quant out")
    if system is not None and to != "gguf":
        raise ExportError(f"a system message for --to {to}: only a Modelfile has one", "--to gguf", "leave it out")


def _spare_the_model(target: Path, origin: Origin) -> None:
    """Never write over what is read."""
    whole = target.resolve()
    for place in (origin.place.base, origin.place.adapter):
        if place is not None and whole == Path(place).resolve():
            raise ExportError(f"{target} is the model that is exported", "another folder", "name another --out")


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


def _beside(path: Path | str, to: str) -> Path:
    return Path(path) / FORMS[to] if Path(path).is_dir() else Path(f"{_name(path)}-{FORMS[to]}")


def _name(path: Path | str) -> str:
    folder = Path(path)
    whole = folder.resolve() if folder.is_dir() else folder
    run = run_folder_of(path)
    if run is not None and whole.name.startswith("checkpoint-"):
        return f"{run.name}-{whole.name}"
    return whole.parent.name if whole.name in ("adapter", "model") else whole.name


def _context(path: Path | str, limit: int) -> int:
    """Tokens of context for Ollama: the length of the training rows, else what the model can."""
    run = run_folder_of(path)
    settings = yaml.safe_load((run / "config.yml").read_text(encoding="utf-8")) if run is not None else None
    trained = settings.get("sequence_len") if isinstance(settings, dict) else None
    return min(int(trained), limit) if trained else limit


__all__ = ["ExportReport", "ProvedFile", "export_run"]
