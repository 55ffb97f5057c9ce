"""The weights and the tokenizer of a trained model, from the name that a user gives."""

from __future__ import annotations

from pathlib import Path

from whet.errors import ExportError
from whet.export.lora import AdapterSource
from whet.export.tensors import CheckpointSource, TensorSource
from whet.models.names import locate

NEEDED_FILES = ["*.json", "*.safetensors", "*.jinja", "README.md", "LICENSE*"]


def resolve_source(path: Path | str) -> tuple[TensorSource, Path]:
    """The weights of a trained model, with an adapter merged, and the folder of its tokenizer.

    Args:
        path: a run folder, an adapter folder, a checkpoint folder, a name on the hub, or ``starter``.

    Raises:
        ModelError: nothing of that kind lies there.
        ExportError: weights that cannot be exported exactly, or a base model that cannot be had.
    """
    place = locate(str(path))
    base = CheckpointSource(local_folder(place.base))
    tokenizer = local_folder(place.tokenizer)
    return (base if place.adapter is None else AdapterSource(base, place.adapter)), tokenizer


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
