"""``whet push``: a run as a repository on the hub. The files are gathered in a folder of their own, then uploaded."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from whet.console import notice, output_errors, warn, write_json_atomic, write_text_atomic
from whet.errors import ExportError, ProofFailed
from whet.export.adapter import resolve_source
from whet.export.card import GgufFact, model_card
from whet.export.card_facts import CardFacts, facts_of_run, local_base, public_name
from whet.export.hub import check_repo, push_folder, usable_token
from whet.export.licence import FILES
from whet.export.merged import TOKENIZER_FILES, write_merged
from whet.export.modelfile_reader import create_request
from whet.export.recipes import quant_name
from whet.export.run import export_run
from whet.export.verify import verdict_path
from whet.models.load import load_tokenizer
from whet.models.names import Location, locate

KINDS = ("adapter", "merged", "gguf")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", *TOKENIZER_FILES)
NAME_KEYS = ("base_model_name_or_path", "_name_or_path", "name_or_path")  # may hold a path of this machine


def push_run(
    path: str,
    repo: str,
    *,
    to: str | None = None,
    quants: Sequence[str] = (),
    private: bool = True,
    token: str | None = None,
    licence: str | None = None,
) -> str:
    """Upload a trained model with its card.

    Args:
        path: a run folder, an adapter folder or a checkpoint folder.
        repo: ``owner/name`` on the hub.
        to: "adapter", "merged" or "gguf"; None is the adapter where there is one, else the whole model.
        quants: of "gguf"; none takes those that were exported, else q8_0.
        licence: an identifier for the card; None takes the base's.

    Returns:
        The address of the repository.

    Raises:
        ExportError: nothing of that kind, a GGUF that failed its proof, or anything :func:`push_folder` raises.
    """
    check_repo(repo)
    token = usable_token(token)
    place = locate(path)
    to = to or ("merged" if place.adapter is None else "adapter")
    if to not in KINDS:
        raise ExportError(f"--to {to}", f"one of {', '.join(KINDS)}")
    facts = facts_of_run(path, licence, load_tokenizer(place.tokenizer, {}))
    if not facts.licence:
        notice("the card names no licence: the base's is not known here. Say --license apache-2.0, for example")
    with push_stage(path) as stage:
        ggufs: list[GgufFact] = []
        if to == "adapter":
            gather_adapter(place, stage)
        elif to == "merged":
            source, tokenizer_dir = resolve_source(path)
            write_merged(source, stage, tokenizer_dir=tokenizer_dir)
        else:
            ggufs = gather_ggufs(_exported(path, place, quants), quants, stage)
        return finish_and_push(stage, facts, repo, to, ggufs, base=place.base, private=private, token=token)


@contextmanager
def push_stage(path: str) -> Iterator[Path]:
    """An empty folder beside the run, on the same disk; it goes away afterwards."""
    parent = Path(path) if Path(path).is_dir() else Path()
    with output_errors(parent), tempfile.TemporaryDirectory(prefix=".push-", dir=parent) as stage:
        yield Path(stage)


def finish_and_push(
    stage: Path,
    facts: CardFacts,
    repo: str,
    kind: str,
    ggufs: Sequence[GgufFact] = (),
    *,
    base: str | None,
    private: bool,
    token: str | None,
) -> str:
    """Add card and licence, take this machine's paths out of the settings, and upload all of it."""
    _hide_paths(stage)
    _add_licence(stage, base)
    write_text_atomic(stage / "README.md", model_card(facts, repo, kind, ggufs))
    if kind == "adapter" and facts.base and not facts.on_hub and facts.base != "starter":
        warn(f"the base model {facts.base} is a folder here, which others do not have: --to merged would hold both")
    return push_folder(stage, repo, private=private, token=token, message=f"Upload {kind} by whet")


def gather_adapter(place: Location, stage: Path) -> None:
    """The adapter with its tokenizer.

    Raises:
        ExportError: the model has no adapter.
    """
    if place.adapter is None:
        raise ExportError("this model has no adapter: all of its weights were trained", fix="push it with --to merged")
    for name in ADAPTER_FILES:
        for folder in (place.adapter, Path(place.tokenizer)):
            if (folder / name).is_file() and not (stage / name).exists():
                lay(folder / name, stage / name)


def gather_ggufs(folder: Path, quants: Sequence[str], stage: Path) -> list[GgufFact]:
    """GGUF files with their Modelfiles and proofs, and the three small files from which the hub serves them to Ollama.

    Args:
        quants: those that are pushed; none means all that lie there.

    Raises:
        ProofFailed: a file that is not the trained model.
    """
    found = {file.name.split(".")[-2]: file for file in sorted(folder.glob("*.*.gguf"))}
    facts = [_gguf_fact(quant, found[quant]) for quant in map(quant_name, quants or found)]
    for fact in facts:
        file = found[fact.quant]
        for item in (file, verdict_path(file), folder / f"Modelfile.{fact.quant}"):
            if item.is_file():
                lay(item, stage / item.name)
    own = folder / f"Modelfile.{facts[0].quant}"
    modelfile = own if own.is_file() else folder / "Modelfile"
    if modelfile.is_file():
        lay(modelfile, stage / "Modelfile")
        _serving_files(modelfile, stage)
    return facts


def lay(file: Path, target: Path) -> None:
    """Put a file into the folder that is pushed: settings as copies, weights as links to where they are."""
    if file.suffix in (".gguf", ".safetensors"):
        try:
            os.symlink(file.resolve(), target)
            return
        except OSError:
            pass  # a disk without links
    shutil.copyfile(file, target)


def _exported(path: str, place: Location, quants: Sequence[str]) -> Path:
    """The folder with the GGUF files of a run; made and proved where they are missing, or older than the weights."""
    folder = Path(path) / "gguf"
    files = {file.name.split(".")[-2]: file for file in folder.glob("*.*.gguf")}
    trained = Path(place.base if place.adapter is None else place.adapter)
    newest = max((file.stat().st_mtime for file in trained.glob("*.safetensors")), default=0.0)
    wanted = [quant_name(quant) for quant in quants] or list(files)
    if wanted and all(quant in files and files[quant].stat().st_mtime >= newest for quant in wanted):
        return folder
    report = export_run(path, None, wanted or ["q8_0"])
    report.check()
    return report.files[0].path.parent


def _gguf_fact(quant: str, file: Path) -> GgufFact:
    proof = ""
    if verdict_path(file).is_file():
        verdict = json.loads(verdict_path(file).read_text(encoding="utf-8"))
        if not verdict["passed"]:
            raise ProofFailed(f"{file} is not the trained model", fix="export it again; see its .verify.json")
        proof = f"passed: mean KL {verdict['kl_mean']:.1e}, top-1 {verdict['top1_agreement']:.1%}"
        proof += f", {verdict['positions']} positions"
    else:
        warn(f"{file} was never compared with the trained model; the card says so")
    return GgufFact(quant, file.stat().st_size, proof)


def _serving_files(modelfile: Path, stage: Path) -> None:
    """``template``, ``system`` and ``params``: what the hub gives Ollama beside the GGUF (docs of the hub)."""
    body = create_request(modelfile).body
    for name in ("template", "system"):
        if body.get(name):
            write_text_atomic(stage / name, body[name])
    if body.get("parameters"):
        write_json_atomic(stage / "params", body["parameters"])


def _hide_paths(stage: Path) -> None:
    """Settings that name a folder of this machine keep its last part only."""
    for file in stage.glob("*.json"):
        if file.stat().st_size > 2**20:
            continue
        settings = json.loads(file.read_text(encoding="utf-8"))
        named = {key: settings[key] for key in NAME_KEYS if isinstance(settings, dict) and settings.get(key)}
        public = {key: public_name(str(name))[0] for key, name in named.items()}
        if public != named:
            write_json_atomic(file, settings | public)


def _add_licence(stage: Path, base: str | None) -> None:
    folder = None if base is None else local_base(base)
    for name in FILES if folder is not None else ():
        if (folder / name).is_file():  # type: ignore[operator]
            shutil.copyfile(folder / name, stage / name)  # type: ignore[operator]
            return
