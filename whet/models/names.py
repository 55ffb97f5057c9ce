"""From the name that a user gives to the folder that is meant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import ModelError

STARTER = "starter"
EXPECTED = 'a run folder, an adapter folder, a checkpoint folder, owner/name on the hub, or "starter"'


@dataclass(frozen=True)
class Location:
    """Where a model lies.

    Args:
        base: a checkpoint folder, or a name on the hub.
        adapter: the folder of a PEFT adapter on top of it; None without one.
        tokenizer: the folder (or hub name) that holds the tokenizer to use.
    """

    base: str
    adapter: Path | None
    tokenizer: str


def starter_folder() -> Path:
    """The folder of the embedded model."""
    return Path(__file__).resolve().parent / "starter"


def locate(name: str) -> Location:
    """Find the model that ``name`` means: "starter", a run, adapter or checkpoint folder, or a hub name.

    Raises:
        ModelError: a folder that holds no model, or a path that does not exist.
    """
    if name == STARTER:
        return Location(str(starter_folder()), None, str(starter_folder()))
    folder = Path(name).expanduser()
    if folder.is_file():
        raise ModelError(f"{name} is a file", EXPECTED)
    if not folder.is_dir():
        return _on_hub(name)
    for inner in ("adapter", "model"):  # a run folder
        if (folder / "config.yml").is_file() and (folder / inner).is_dir():
            return locate(str(folder / inner))
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} holds no model: there is no config.json and no adapter_config.json in it", EXPECTED)
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"{name} holds no weights", "model.safetensors, or model-00001-of-....safetensors", "check the download"
        )
    return Location(str(folder), None, str(folder))


def adapter_settings(folder: Path) -> dict[str, Any]:
    """The ``adapter_config.json`` of a folder.

    Raises:
        ModelError: it is not JSON, or names no base model.
    """
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = settings["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'adapter_config.json'} is damaged: {error}", "a PEFT adapter") from error
    if not base:
        raise ModelError(f"{folder / 'adapter_config.json'} names no base model", "base_model_name_or_path")
    return settings


def _adapter(folder: Path) -> Location:
    base = locate(str(adapter_settings(folder)["base_model_name_or_path"]))
    if base.adapter is not None:
        raise ModelError(f"{folder} is an adapter on top of the adapter {base.adapter}", "an adapter on a base model")
    own = (folder / "tokenizer_config.json").is_file()
    return Location(base.base, folder, str(folder) if own else base.tokenizer)


def _on_hub(name: str) -> Location:
    parts = name.split("/")
    if len(parts) > 2 or name.startswith((".", "/", "~")) or not all(parts):
        raise ModelError(f"no folder {name}", EXPECTED, "check the path")
    return Location(name, None, name)
