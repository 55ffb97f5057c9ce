"""Where an export reads weights from: a checkpoint folder, in 16 or 32 bit or in NF4.

Tensors come one at a time, in float32, so that a model larger than memory can be written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from whet.errors import ExportError
from whet.export.families.vision import language_config, sees
from whet.export.fourbit import FourBitSource, is_four_bit

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class TensorSource(Protocol):
    """A model's config and its weights by their transformers names."""

    config: dict[str, Any]
    """config.json"""
    folder: Path
    """where config.json lies; generation_config.json is beside it"""

    def names(self) -> list[str]:
        """Every weight, in a fixed order; a tied head is not listed."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The weight's shape, without reading it."""
        ...

    def get(self, name: str) -> torch.Tensor:
        """The weight in float32 on the CPU."""
        ...


def open_checkpoint(folder: Path | str) -> TensorSource:
    """The weights of a checkpoint folder; those of an NF4 checkpoint as the values that they stand for.

    Raises:
        ExportError: no weights, a damaged file, or weights quantised in another way.
    """
    config = _read_config(Path(folder))
    if is_four_bit(config):
        return FourBitSource(CheckpointSource(folder, quantised=True))
    return CheckpointSource(folder)


class CheckpointSource:
    """A folder of safetensors, in one file or in shards.

    Args:
        quantised: read it although its weights are quantised; :meth:`get` is then right for some of them only.

    Raises:
        ExportError: no weights, a damaged file, or weights in 4 or 8 bit.
    """

    def __init__(self, folder: Path | str, quantised: bool = False) -> None:
        self.folder = Path(folder)
        self.config = _read_config(self.folder)
        if not quantised:
            _refuse_quantised(self.folder, self.config)
        stored = _weight_files(self.folder)
        self._stored_name = {_present_name(name): name for name in stored}
        self._file_of = {name: stored[old] for name, old in self._stored_name.items()}
        # Some families are tied unless their config says otherwise; then it says nothing, and there is no head.
        self.config.setdefault("tie_word_embeddings", HEAD not in self._file_of)
        self._open: dict[str, Any] = {}

    def names(self) -> list[str]:
        tied = bool(self.config.get("tie_word_embeddings"))
        skip = {name for name in self._file_of if name.endswith("rotary_emb.inv_freq") or (tied and name == HEAD)}
        return [name for name in sorted(self._file_of) if name not in skip]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle(name).get_slice(self._stored_name[name]).get_shape())

    def get(self, name: str) -> torch.Tensor:
        return self.raw(name).float()

    def raw(self, name: str) -> torch.Tensor:
        """The tensor as it lies in the file."""
        return self._handle(name).get_tensor(self._stored_name[name])

    def _handle(self, name: str) -> Any:
        file = self._file_of.get(name)
        if file is None:
            raise ExportError(f"{self.folder} has no weight {name}", "a complete checkpoint")
        if file not in self._open:
            self._open[file] = _open_safetensors(self.folder / file)
        return self._open[file]


class LanguageModel:
    """The language model inside a model that also sees, by the names and the config it has alone."""

    PREFIX = "model.language_model."

    def __init__(self, source: TensorSource) -> None:
        self.source, self.folder = source, source.folder
        self.config = language_config(source.config)

    def names(self) -> list[str]:
        inside = [name for name in self.source.names() if name.startswith(self.PREFIX) or name == HEAD]
        return [name.replace(self.PREFIX, "model.", 1) for name in inside]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(self._outer(name))

    def get(self, name: str) -> torch.Tensor:
        return self.source.get(self._outer(name))

    def _outer(self, name: str) -> str:
        return name if name == HEAD else name.replace("model.", self.PREFIX, 1)


def language_model(source: TensorSource) -> TensorSource:
    """``source``, or the language model inside it where it also has a vision part."""
    return LanguageModel(source) if sees(source.config) else source


def _present_name(name: str) -> str:
    """A weight's name in transformers 5; published models with a vision part have older ones."""
    for old, new in (("language_model.model.", LanguageModel.PREFIX), ("language_model.lm_head.", "lm_head.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ExportError(f"no config.json in {folder}", "the folder of a model", "check the path")
    return json.loads(file.read_text(encoding="utf-8"))


def _refuse_quantised(folder: Path, config: dict[str, Any]) -> None:
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise ExportError(
            f"{folder} holds weights quantised with {method}",
            "the 16-bit base model: an exact export cannot be made from a quantised one",
            "name the 16-bit model with --base (the same name without -bnb-4bit or the like)",
        )


def _weight_files(folder: Path) -> dict[str, str]:
    """Weight name -> file name."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    single = folder / "model.safetensors"
    if not single.is_file():
        raise ExportError(f"no weights in {folder}", "model.safetensors (or its shards and index)", "check the path")
    return dict.fromkeys(_open_safetensors(single).keys(), single.name)


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ExportError(f"cannot read {path}: {error}", "a complete safetensors file", "copy it again") from error
