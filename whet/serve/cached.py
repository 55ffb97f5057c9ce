"""A checkpoint or adapter as a GGUF that llama.cpp can serve: exported once, then found again by its content.

The file is f16, the finest form that llama.cpp runs at full speed everywhere. Its name is the hash of everything that
goes into it, so a model that was trained on has another one.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from whet.console import Progress, notice, output_errors, staged_folder, write_json_atomic
from whet.errors import DataError, ExportError, ModelError
from whet.export.adapter import Origin, find_origin
from whet.export.gguf import write_gguf
from whet.export.probes import DEFAULT_PROBES
from whet.llamacpp import LlamaServer
from whet.serve.places import cache_folder

FORMAT = "whet-serve-1"  # raise it when the same model is to be exported anew
QUANT = "f16"
FILE, FACTS, HASHES = "model.f16.gguf", "facts.json", "hashes.json"
INPUTS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
KEPT_DAYS = 30  # an export that nobody has used for so long goes when the next one is made
CHECK_CONTEXT = 1024


@dataclass(frozen=True)
class Served:
    """A GGUF to serve.

    Args:
        stops: texts of the chat template that end an answer and are no single token.
    """

    file: Path
    stops: tuple[str, ...]


def exported(path: Path | str, cache: Path | None = None) -> Served:
    """The GGUF of a run, adapter or checkpoint folder, a hub name or "starter"; written where it is not there yet.

    Args:
        cache: where exports are kept; None: the user's cache folder.

    Raises:
        ModelError: no model there.
        ExportError: a model that cannot be written as GGUF, or whose prompts llama.cpp would write differently.
        OutputError: the disk is full or the place not writable.
    """
    folder = (cache_folder() if cache is None else cache) / "gguf"
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    origin = find_origin(path)
    place = folder / _key(origin, folder)
    with _only_one(place):
        if not (place / FACTS).is_file():
            _forget_old(folder)
            _export(origin, place)
        place.touch()
    facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
    return Served(place / FILE, tuple(facts["stops"]))


@contextmanager
def _only_one(place: Path) -> Iterator[None]:
    """Hold the lock of one export; the system frees it when its holder is killed."""
    lock = FileLock(f"{place}.lock")
    with output_errors(place.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notice("another whet is exporting this model: waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _key(origin: Origin, folder: Path) -> str:
    """The hash of the files that the export reads."""
    places = [origin.place.base, origin.place.adapter, origin.place.tokenizer]
    whole = hashlib.sha256(FORMAT.encode())
    known, used = _known_hashes(folder), {}
    for role, place in zip(("base", "adapter", "tokenizer"), places, strict=True):
        files = sorted({file for pattern in INPUTS for file in Path(place).glob(pattern)}) if place is not None else []
        for file in files:
            mark = _mark(file)
            used[mark] = known.get(mark) or _hash(file)
            whole.update(f"{role}/{file.name} {used[mark]}\n".encode())
    if used.keys() - known.keys():
        write_json_atomic(folder / HASHES, known | used)
    return whole.hexdigest()[:32]


def _mark(file: Path) -> str:
    """What changes when a file does. The change time cannot be set back by a program."""
    stat = file.stat()
    return f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _known_hashes(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / HASHES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _export(origin: Origin, place: Path) -> None:
    from whet.export.verify import terminators
    from whet.models.load import load_tokenizer
    from whet.text.chat import chat_template_of

    for left in place.parent.glob(f".{place.name}.part-*"):  # of an export that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    tokenizer = load_tokenizer(str(origin.tokenizer_dir), {})
    template = chat_template_of(tokenizer)
    size = 2 * sum(math.prod(origin.source.shape(name)) for name in origin.source.names())
    notice(f"exporting to {place / FILE} ({size / 1e9:.2g} GB), once for this model")
    with staged_folder(place, replace=True) as stage:
        with Progress("exporting", max(size // 10**6, 1), "MB") as progress:
            count = _Megabytes(progress)
            write_gguf(
                origin.source,
                origin.tokenizer_dir,
                stage / FILE,
                QUANT,
                name="model",
                chat_template=template.jinja if template is not None else "",
                eot_token=template.stops[0] if template is not None and template.stops else None,
                on_bytes=count,
            )
        if template is not None:
            _check_prompts(stage / FILE, tokenizer)
        write_json_atomic(stage / FACTS, {"stops": terminators(tokenizer)[1], "made": time.time()})


class _Megabytes:
    """Bytes to a bar of megabytes."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._bytes = progress, 0

    def __call__(self, more: int) -> None:
        before, self._bytes = self._bytes // 10**6, self._bytes + more
        self._progress.advance(self._bytes // 10**6 - before)


def _check_prompts(file: Path, tokenizer: Any) -> None:
    """The token ids that llama.cpp makes of conversations must be those of training.

    Raises:
        ExportError: they are not.
    """
    probes = [messages for messages in DEFAULT_PROBES if messages[-1]["role"] == "user"]
    try:
        with LlamaServer(file, n_ctx=CHECK_CONTEXT) as server:
            same = all(_same_ids(server, tokenizer, messages) for messages in probes)
    except ModelError as error:  # also a chat template that llama.cpp cannot read
        raise ExportError(
            f"llama.cpp cannot use this model's export: {error.given}", fix="serve it with --backend torch"
        ) from error
    if not same:
        raise ExportError(
            "llama.cpp writes this model's chat template differently from the tokenizer",
            fix="serve it with --backend torch",
        )


def _same_ids(server: LlamaServer, tokenizer: Any, messages: list[dict[str, str]]) -> bool:
    from whet.evaluate.prompts import chat_ids

    try:
        ids = chat_ids(tokenizer, messages)
    except DataError:
        return True  # a template that takes no system message, for example
    return server.tokenize(server.render(messages), add_special=True) == ids


def _forget_old(folder: Path) -> None:
    """Remove exports that were not used for a long time; one in use by a server stays readable for it."""
    oldest = time.time() - KEPT_DAYS * 86400
    for facts in folder.glob(f"*/{FACTS}"):
        if facts.parent.stat().st_mtime < oldest:
            notice(f"removing {facts.parent}: not served for {KEPT_DAYS} days")
            shutil.rmtree(facts.parent, ignore_errors=True)
