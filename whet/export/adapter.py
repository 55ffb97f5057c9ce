"""The weights and the tokenizer of a trained model, from the name that a user gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from whet.console import notice, warn
from whet.errors import ExportError
from whet.export.fourbit import FourBitSource
from whet.export.lora import AdapterSource
from whet.export.tensors import TensorSource, open_checkpoint
from whet.models.names import Location, locate
from whet.models.scores import refuse_scorer

NEEDED_FILES = ["*.json", "*.safetensors", "*.jinja", "README.md", "LICENSE*"]
FOUR_BIT_ENDINGS = ("-unsloth-bnb-4bit", "-bnb-4bit")


@dataclass(frozen=True)
class Origin:
    """A trained model, found.

    Attributes:
        source: its weights, with an adapter merged.
        base: the weights without the adapter; ``source`` itself where there is none.
        place: where base, adapter and tokenizer lie; folders of this machine.
    """

    source: TensorSource
    base: TensorSource
    place: Location

    @property
    def tokenizer_dir(self) -> Path:
        """The folder of the tokenizer that was trained with."""
        return Path(self.place.tokenizer)

    @property
    def adapter(self) -> AdapterSource | None:
        """The adapter, where there is one."""
        return self.source if isinstance(self.source, AdapterSource) else None


def find_origin(path: Path | str, base: Path | str | None = None) -> Origin:
    """Find the model that ``path`` means, and open its weights.

    An adapter on a published NF4 checkpoint is merged into the 16-bit model of the same name where that can be had,
    into the NF4 values otherwise; either is said.

    Args:
        path: a run folder, one of its checkpoints, an adapter folder, a checkpoint folder, a name on the hub, or
            ``starter``.
        base: the model that an adapter belongs on, where the one named in the adapter is not it.

    Raises:
        ModelError: nothing of that kind lies there.
        ExportError: weights that cannot be exported exactly, or a base model that cannot be had.
    """
    place = locate(str(path))
    refuse_scorer(place)
    if base is not None:
        if place.adapter is None:
            raise ExportError(f"--base was given, but {path} is no adapter", "an adapter or run folder", "leave it out")
        place = replace(place, base=locate(str(base)).base)
    folder = _base_folder(place.base)
    tokenizer = folder if place.tokenizer == place.base else local_folder(place.tokenizer)
    place = replace(place, base=str(folder), tokenizer=str(tokenizer))
    weights = open_checkpoint(folder)
    if isinstance(weights, FourBitSource):
        merged = "" if place.adapter is None else "; the adapter, which was trained on these, is merged into them"
        warn(
            f"{folder} has 4-bit weights (NF4): the 16-bit values that they stand for are exported{merged}. "
            "With the 16-bit model at hand: --base FOLDER"
        )
    return Origin(weights if place.adapter is None else AdapterSource(weights, place.adapter), weights, place)


def resolve_source(path: Path | str) -> tuple[TensorSource, Path]:
    """The weights of a trained model, with an adapter merged, and the folder of its tokenizer; see ``find_origin``."""
    origin = find_origin(path)
    return origin.source, origin.tokenizer_dir


def run_folder_of(path: Path | str) -> Path | None:
    """The run folder that ``path`` is, or lies in (``RUN/adapter``, ``RUN/checkpoints/checkpoint-N``); else None."""
    folder = Path(path).expanduser().resolve()
    run = folder
    if folder.name in ("adapter", "model"):
        run = folder.parent
    elif folder.parent.name == "checkpoints":
        run = folder.parent.parent
    return run if (run / "config.yml").is_file() else None


def _base_folder(name: str) -> Path:
    """The folder of the weights: of an NF4 model its 16-bit twin, where there is one."""
    ending = next((ending for ending in FOUR_BIT_ENDINGS if name.endswith(ending)), None)
    if ending is None:
        return local_folder(name)
    twin = name.removesuffix(ending)
    try:
        folder = local_folder(twin)
    except ExportError:
        return local_folder(name)  # only the 4-bit model is to be had
    notice(f"the weights are those of {twin} in 16 bit; {name} is the same model in NF4")
    return folder


def local_folder(name: str) -> Path:
    """The folder that a model lies in on this machine; a hub model is fetched where it is not there yet.

    Raises:
        ExportError: the hub cannot be reached, or does not give the model.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED_FILES, local_files_only=True))
    except (OSError, ValueError):
        pass  # not fetched before
    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED_FILES))
    except (OSError, ValueError, RuntimeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"the base model {name!r} is neither a folder here nor to be had from the hub ({said})",
            "the 16-bit model that was trained",
            "put it where it was during training, or connect to the network",
        ) from error
