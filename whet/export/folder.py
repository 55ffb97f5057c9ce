"""A folder to hand on: one GGUF for each quantisation, with the Modelfiles that go with them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from whet.console import Progress, notice, output_errors, staged_folder, write_text_atomic
from whet.errors import ExportError
from whet.export.families.vision import sees
from whet.export.gguf import tensor_bytes, write_ggufs
from whet.export.importance import Importance, write_importance
from whet.export.modelfile import HEADER, Template, modelfile
from whet.export.parameters import Value
from whet.export.recipes import quant_name
from whet.export.tensors import EMBEDDING, TensorSource, language_model
from whet.export.verdict import verdict_path
from whet.export.vocabulary import read_vocabulary

STEM = "model"
_FROM = re.compile(r"^FROM (?:\"\"\")?\./(?P<file>.+\.(?P<quant>[a-z0-9_]+)\.gguf)(?:\"\"\")?$", re.MULTILINE)


@dataclass(frozen=True)
class Exported:
    """One written GGUF: its quantisation, its files, its size in bytes."""

    quant: str
    gguf: Path
    modelfile: Path
    bytes: int


def write_exports(
    source: TensorSource,
    tokenizer_dir: Path | str,
    out_dir: Path | str,
    quants: Sequence[str],
    *,
    name: str,
    template: Template | None = None,
    chat_template: str | None = None,
    system: str | None = None,
    num_ctx: int | None = None,
    parameters: Mapping[str, Value] | None = None,
    license: str | None = None,
    context_length: int | None = None,
    stem: str = STEM,
    stops: Sequence[str] = (),
    no_template: str = "",
    importance: Importance | None = None,
) -> list[Exported]:
    """Write every quantisation and its Modelfile; all files appear at the end, or none.

    Where the folder holds several quantisations, each has ``Modelfile.<quant>``; ``Modelfile`` is the first one's.

    Args:
        quants: names or aliases; a repeated one is written once.
        name: the model's name in the GGUF.
        template: the template of the Modelfile; its stops end an answer. None writes no TEMPLATE.
        parameters: more of them than num_ctx and stop, such as ``{"temperature": 0}``.
        chat_template: the Jinja in the GGUF; None takes ``template``'s if given, else the tokenizer's; "" none.
        stem: files are called ``<stem>.<quant>.gguf``.
        stops: texts that end an answer, the turn's terminator first; none takes the template's, else the end token.
        no_template: why ``template`` is None although the GGUF holds a chat template (``ChatTemplate.no_go``).
        importance: an importance matrix for the quantisations; it is written beside them.

    Raises:
        ExportError: nothing to write, or something that cannot be expressed.
        OutputError: the disk is full, or the place is not writable.
    """
    wanted = _quants(quants)
    target, source = Path(out_dir), _language_part(source)
    if chat_template is None and template is not None:
        chat_template = template.jinja()
    vocabulary = read_vocabulary(tokenizer_dir, source.shape(EMBEDDING)[0], chat_template=chat_template)
    chat_template, template = vocabulary.chat_template or "", _led(template, vocabulary.lead)
    stops = tuple(stops) or (template.stops if template is not None else ())
    _check_system(system, template, chat_template)
    write_text = partial(  # first of all: a Modelfile that cannot be written shows before the long work
        modelfile, system=system, num_ctx=num_ctx, parameters=parameters, license=license, no_template=no_template
    )
    ends = stops or (vocabulary.tokens[vocabulary.eos_id],)
    texts = {quant: write_text(f"{stem}.{quant}.gguf", template, stops=ends) for quant in wanted}
    eot = stops[0] if stops else None
    write = partial(write_ggufs, name=name, chat_template=chat_template, context_length=context_length, eot_token=eot)
    with staged_folder(target) as stage:
        files = {quant: stage / f"{stem}.{quant}.gguf" for quant in wanted}
        with Progress(f"writing {', '.join(wanted)}", _whole_megabytes(source, wanted, importance), "MB") as progress:
            write(source, tokenizer_dir, files, importance=importance, on_bytes=_megabytes(progress))
        _write_importance(importance, stage / f"{stem}.imatrix.gguf")
        _write_modelfiles(stage, target, texts)
    return [_exported(target, stem, quant, wanted[0]) for quant in wanted]


def _write_importance(importance: Importance | None, file: Path) -> None:
    if importance is not None:
        write_importance(importance, file)


def _whole_megabytes(source: TensorSource, quants: Sequence[str], importance: Importance | None) -> int:
    return tensor_bytes(source, quants, importance) // 10**6


def _language_part(source: TensorSource) -> TensorSource:
    if sees(source.config):
        notice("this model also sees: the GGUF holds its language model, and the vision part is left out")
    return language_model(source)


def _led(template: Template | None, lead: str) -> Template | None:
    """The template that begins as llama.cpp's reading of this vocabulary needs it."""
    if template is None or not lead:
        return template
    pieces: Any = template  # of pieces, so a dataclass
    return replace(pieces, prefix=lead + template.prefix)


def _quants(named: Sequence[str]) -> list[str]:
    """Names of quantisations, each once."""
    if not named:
        raise ExportError("no quantisation named", "for example q8_0")
    return list(dict.fromkeys(quant_name(quant) for quant in named))


def _check_system(system: str | None, template: Template | None, chat_template: str) -> None:
    if system is not None and template is None and not chat_template:
        raise ExportError("a system message was given, but the model has no chat template", fix="leave it out")


def _write_modelfiles(stage: Path, target: Path, texts: dict[str, str]) -> None:
    """``Modelfile`` for the first quantisation; each one's own beside it where the folder will hold several."""
    others = _keep_other_modelfiles(target, set(texts))
    for quant, text in texts.items():
        if len(texts) > 1 or others:
            write_text_atomic(stage / f"Modelfile.{quant}", text)
    write_text_atomic(stage / "Modelfile", next(iter(texts.values())))


def _exported(folder: Path, stem: str, quant: str, first: str) -> Exported:
    own = folder / f"Modelfile.{quant}"
    file = folder / f"{stem}.{quant}.gguf"
    verdict_path(file).unlink(missing_ok=True)  # a verdict on the file that was here before says nothing about this one
    place = folder / "Modelfile" if quant == first and not own.is_file() else own
    return Exported(quant, file, place, file.stat().st_size)


def _keep_other_modelfiles(folder: Path, replaced: set[str]) -> bool:
    """Give an earlier export's ``Modelfile`` its own name before it is replaced.

    Returns:
        Whether the folder holds other quantisations than those written now.
    """
    old = folder / "Modelfile"
    if old.is_file():
        text = old.read_text(encoding="utf-8", errors="replace")
        found = _FROM.search(text)
        with output_errors(old):
            if not text.startswith(HEADER):
                os.replace(old, folder / "Modelfile.old")
                notice(f"{old} was not written by whet: it is now {folder / 'Modelfile.old'}")
            elif found and found["quant"] not in replaced and (folder / found["file"]).is_file():
                own = folder / f"Modelfile.{found['quant']}"
                if not own.exists():
                    os.replace(old, own)
    return any(file.name.split(".")[-2] not in replaced for file in folder.glob("*.*.gguf"))


def _megabytes(progress: Progress) -> Callable[[int], None]:
    """A counter of bytes that advances the progress in whole megabytes, with the speed so far."""
    held, written, started = 0, 0, time.monotonic()

    def add(count: int) -> None:
        nonlocal held, written
        held, written = held + count, written + count
        speed = written / 1e6 / max(time.monotonic() - started, 1e-3)
        progress.advance(held // 10**6, **{"MB/s": round(speed, 1)})
        held %= 10**6

    return add
