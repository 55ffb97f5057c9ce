"""The models of a comparison, and how they are loaded: one base for all adapters on it, other models in turn."""

from __future__ import annotations

import gc
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from whet import runtime
from whet.config import RunConfig, load_config
from whet.errors import ModelError, WhetError
from whet.export.adapter import local_folder, run_folder_of
from whet.models.load import load_model, load_tokenizer
from whet.models.names import STARTER, Location, locate, starter_folder

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Contender:
    """One model.

    Attributes:
        name: as tables show it.
        path: as the user gave it, or as it was found.
        place: where base, adapter and tokenizer lie.
        four_bit: the base is loaded in 4 bits where the device can, as the run trained on it.
    """

    name: str
    path: str
    place: Location
    four_bit: bool = False


@dataclass(frozen=True)
class Field:
    """All models of a comparison; the first is what the others are compared with. ``run``, ``config``: of the run."""

    contenders: list[Contender]
    run: Path | None
    config: RunConfig | None


def contenders_of(paths: Sequence[str], base: str | None = None, checkpoints: str | None = None) -> Field:
    """The base model, then the models named.

    Args:
        paths: run, adapter, checkpoint or model folders, hub names, "starter".
        base: what they are compared with; None: the model that the first one was trained from.
        checkpoints: of the first run: "all", or step numbers as "50,100"; they come before the run itself.

    Raises:
        ModelError: no such model, or nothing says what to compare with.
    """
    run = run_folder_of(paths[0])
    config = _config(run)
    if config is not None and config.reward_model:
        raise ModelError(f"{paths[0]} is a reward model: it scores answers and writes none", "a model that answers")
    four_bit = config is not None and (config.load_in_4bit or config.adapter == "qlora")
    models = [*_checkpoints(run, paths[0], checkpoints), *paths]
    places = [locate(path) for path in models]
    first = _base_of(paths[0], places[-len(paths)], config) if base is None else locate(base)
    if first in places:
        raise ModelError(f"{base or first.base} is compared with itself", "two models", "name another --base")
    name = base or _base_name(first, config)
    found = [Contender(_name(name), name, first, four_bit)]
    found += [Contender(_name(path), path, place, four_bit) for path, place in zip(models, places, strict=True)]
    return Field(_with_one_tokenizer(_told_apart(found), places[-len(paths)]), run, config)


def single(path: str) -> Contender:
    """One model alone.

    Raises:
        ModelError: no such model.
    """
    config = _config(run_folder_of(path))
    four_bit = config is not None and (config.load_in_4bit or config.adapter == "qlora")
    return Contender(_name(path), path, locate(path), four_bit)


def fingerprint(contender: Contender) -> str:
    """A short hash of the weights, of how they are computed, and of the versions that compute.

    An adapter is read whole; of other weights size and time of each file count.
    """
    place = contender.place
    parts: list[Any] = [_folder_facts(Path(local_folder(place.base)))]
    if place.adapter is not None:
        for name in ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"):
            file = place.adapter / name
            parts.append(hashlib.blake2b(file.read_bytes()).hexdigest() if file.is_file() else None)
    versions = runtime.versions()
    parts += [str(runtime.weight_dtype().dtype), runtime.device().type, contender.four_bit]
    parts += [versions.get(name) for name in ("whet", "torch", "transformers", "peft")]
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).hexdigest()


@contextmanager
def loaded(contenders: Sequence[Contender]) -> Iterator[Callable[[Contender], AbstractContextManager[Any]]]:
    """Load contenders on one base once; within it, ``model(contender)`` is the model as that contender.

    Args:
        contenders: ``one_load`` has grouped them.
    """
    first = next((each for each in contenders if each.place.adapter is not None), contenders[0])
    model, _ = load_model(str(first.place.adapter or _loadable(first.place.base)), load_in_4bit=first.four_bit)
    names: dict[Path | None, str] = {first.place.adapter: "default"}
    for other in contenders:
        if other.place.adapter is not None and other.place.adapter not in names:
            names[other.place.adapter] = f"other{len(names)}"
            model.load_adapter(str(other.place.adapter), adapter_name=names[other.place.adapter])
    try:
        yield partial(_as_contender, model.eval(), names)
    finally:
        del model
        gc.collect()
        _empty_cache()


@contextmanager
def _as_contender(model: Any, names: Mapping[Path | None, str], contender: Contender) -> Iterator[Any]:
    if contender.place.adapter is not None:
        model.set_adapter(names[contender.place.adapter])
    bare = contender.place.adapter is None and hasattr(model, "disable_adapter")
    with model.disable_adapter() if bare else nullcontext():
        yield model


def one_load(contenders: Sequence[Contender]) -> list[list[Contender]]:
    """Contenders that one load serves: adapters on one base and that base, as long as their vocabularies are one."""
    groups: dict[tuple[str, int], list[Contender]] = {}
    for contender in contenders:
        rows = _adapter_rows(contender.place.adapter)
        groups.setdefault((contender.place.base, rows), []).append(contender)
    bare = [key for key, group in groups.items() if key[1] == 0]
    for base, _ in bare:  # the base goes with an adapter that brings rows of its own, where there is no other
        others = [key for key in groups if key[0] == base and key[1]]
        if others:
            groups[others[0]] = [*groups.pop((base, 0)), *groups[others[0]]]
    return list(groups.values())


def tokenizer_of(contender: Contender) -> Any:
    """The contender's tokenizer; no weights are read."""
    return load_tokenizer(contender.place.tokenizer, {})


def _adapter_rows(adapter: Path | None) -> int:
    """Rows of the embedding that an adapter brings with it; 0 without one: only such adapters change the base."""
    file = adapter / "adapter_model.safetensors" if adapter is not None else None
    if file is None or not file.is_file():
        return 0
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        name = next((key for key in weights.keys() if key.endswith("embed_tokens.weight")), None)  # noqa: SIM118
        return int(weights.get_slice(name).get_shape()[0]) if name is not None else 0


def _base_of(path: str, place: Location, config: RunConfig | None) -> Location:
    if place.adapter is not None:
        return Location(place.base, None, place.base)
    if config is None:
        raise ModelError(
            f"{path} has no adapter and no config.yml: nothing says which model it was trained from",
            "a run or adapter folder",
            "name the other model: --base MODEL",
        )
    named = config.base_model
    return locate(named if named == STARTER else str(config.resolve_path(named)))


def _base_name(place: Location, config: RunConfig | None) -> str:
    return STARTER if place.base == str(starter_folder()) else config.base_model if config is not None else place.base


def _loadable(base: str) -> str:
    return STARTER if base == str(starter_folder()) else base


def _with_one_tokenizer(contenders: list[Contender], trained: Location) -> list[Contender]:
    """The trained model's tokenizer and chat template for every model with the same vocabulary: the same prompts."""
    vocabulary = load_tokenizer(trained.tokenizer, {}).get_vocab()
    same: dict[str, bool] = {trained.tokenizer: True}
    result = []
    for contender in contenders:
        name = contender.place.tokenizer
        if name not in same:
            own = load_tokenizer(name, {}).get_vocab()
            same[name] = all(vocabulary.get(token) == number for token, number in own.items())
        place = replace(contender.place, tokenizer=trained.tokenizer) if same[name] else contender.place
        result.append(replace(contender, place=place))
    return result


def _checkpoints(run: Path | None, path: str, asked: str | None) -> list[str]:
    if asked is None:
        return []
    folder = (run or Path(path)) / "checkpoints" if run is not None else Path(path)
    there = {int(found[1]): item for item in folder.glob("checkpoint-*") if (found := re.search(r"-(\d+)$", item.name))}
    steps = sorted(there) if asked == "all" else [int(part) for part in re.findall(r"\d+", asked)]
    missing = [step for step in steps if step not in there]
    if missing or not steps:
        have = ", ".join(str(step) for step in sorted(there)) or "none"
        raise ModelError(f"--checkpoints {asked}: no such checkpoint in {folder}", f'"all", or some of: {have}')
    return [str(there[step]) for step in steps]


def _config(run: Path | None) -> RunConfig | None:
    try:
        return load_config(run / "config.yml") if run is not None else None
    except WhetError:
        return None


def _name(path: str) -> str:
    folder = Path(path)
    if not folder.is_dir():
        return path
    whole = folder.resolve()
    return whole.parent.name if whole.name in ("adapter", "model") else whole.name


def _told_apart(contenders: list[Contender]) -> list[Contender]:
    """Names that are there twice get more of their path."""
    names = [contender.name for contender in contenders]
    result: list[Contender] = []
    for i, contender in enumerate(contenders):
        name = contender.name
        if names.count(name) > 1:
            parent = Path(contender.path).resolve().parent
            name = f"{parent.parent.name if parent.name == 'checkpoints' else parent.name}/{name}"
        while any(name == other.name for other in result):
            name = f"{contender.name} ({i + 1})"
        result.append(replace(contender, name=name))
    return result


def _folder_facts(folder: Path) -> list[Any]:
    files = sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))
    return [str(folder), [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
