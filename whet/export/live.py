"""The weights of a model that is in memory, with its LoRA adapter merged on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from whet.errors import ExportError
from whet.export.tensors import HEAD


class LiveSource:
    """Reads a transformers model, or a ``PeftModel`` with LoRA around one, tensor by tensor in float32.

    Args:
        model: the model; it is not changed.
        folder: where config.json and generation_config.json are written for the exporter to read.

    Raises:
        ExportError: 4- or 8-bit weights, whose exact 16-bit values are not in memory.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self.folder = folder
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if getattr(base, "is_quantized", False):
            raise ExportError(
                "the model's weights are in 4 or 8 bit, and a merge into them would not be exact",
                "16-bit weights",
                "save the adapter (model.save_pretrained), then: whet export FOLDER, with the 16-bit base at hand",
            )
        base.config.save_pretrained(folder)
        if base.generation_config is not None:
            base.generation_config.save_pretrained(folder)
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._parts = dict(_weights(base))
        self._tied = bool(self.config.get("tie_word_embeddings"))

    def names(self) -> list[str]:
        return sorted(name for name in self._parts if not (self._tied and name == HEAD))

    def shape(self, name: str) -> tuple[int, ...]:
        weight, _ = self._parts[name]
        return tuple(weight.shape)

    @torch.no_grad()
    def get(self, name: str) -> torch.Tensor:
        """``W + scaling * B @ A`` for an adapted layer (Hu et al. 2021), else the weight."""
        weight, layer = self._parts[name]
        merged = weight.detach().to("cpu", torch.float32)
        if layer is not None:
            for adapter in layer.active_adapters:
                if adapter in layer.lora_A:
                    merged = merged + layer.get_delta_weight(adapter).to("cpu", torch.float32)
        return merged


def _weights(base: Any) -> list[tuple[str, tuple[torch.Tensor, Any]]]:
    """Name as in a checkpoint -> (weight, LoRA layer around it or None)."""
    from peft.tuners.lora import LoraLayer

    modules = dict(base.named_modules())
    found: list[tuple[str, tuple[torch.Tensor, Any]]] = []
    for name, weight in base.named_parameters(remove_duplicate=False):
        if ".lora_" in name or ".original_module." in name:
            continue
        owner, _, leaf = name.rpartition(".")
        layer = modules.get(owner.removesuffix(".base_layer")) if owner.endswith(".base_layer") else None
        if layer is not None and (not isinstance(layer, LoraLayer) or any(layer.use_dora.values())):
            raise ExportError(f"{owner}: an adapter other than plain LoRA", "LoRA", "merge it with PEFT first")
        clean = ".".join(part for part in owner.split(".") if part not in ("base_layer", "modules_to_save", "default"))
        found.append((f"{clean}.{leaf}", (weight, layer if leaf == "weight" else None)))
    return found
