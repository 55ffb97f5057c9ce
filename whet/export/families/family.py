"""What a model family is to the export, and the sizes that every config.json has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gguf
import torch

from whet.errors import ExportError

Config = dict[str, Any]
Change = Callable[[str, torch.Tensor, Config], torch.Tensor]


def unchanged(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    return tensor


def nothing(config: Config) -> None:
    return None


def no_metadata(writer: gguf.GGUFWriter, config: Config) -> None:
    return None


@dataclass(frozen=True)
class Family:
    """One architecture: its name in GGUF, and what llama.cpp wants to be different.

    Attributes:
        change: a weight on its way into the file, by its transformers name. It changes rows only, so that it is right
            for the B of a LoRA too.
        check: raises :class:`ExportError` for a variant that llama.cpp computes in another way.
        metadata: keys beyond the common ones.
        window: the sliding window of a model for which llama.cpp has none; None where there is nothing to miss.
        activation: the only one that llama.cpp has for this architecture.
        rope_types: kinds of rotary embeddings that llama.cpp has for this architecture.
        head: whether the file may hold an output matrix apart from the embedding.
    """

    arch: gguf.MODEL_ARCH
    change: Change = unchanged
    check: Callable[[Config], None] = nothing
    metadata: Callable[[gguf.GGUFWriter, Config], None] = no_metadata
    window: Callable[[Config], int | None] = nothing
    activation: str = "silu"
    rope_types: tuple[str, ...] = ("default", "linear", "yarn")
    head: bool = True


def kv_heads(config: Config) -> int:
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def head_dim(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def refuse(config: Config, what: str, expected: str) -> ExportError:
    """The error for a variant of a known architecture."""
    return ExportError(f"{config['architectures'][0]} with {what}", expected, "export it as merged safetensors instead")
