"""The model families that can be written as GGUF, and what llama.cpp wants to be different in each.

Tensor names and metadata keys follow the GGUF specification (ggml's docs/gguf.md) through the ``gguf`` package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import gguf
import torch

from whet.errors import ExportError

Config = dict[str, Any]
Change = Callable[[str, torch.Tensor, Config], torch.Tensor]


def _unchanged(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    return tensor


def _pair_rotary_rows(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    """Llama's q and k: transformers rotates row i with row i + head_dim/2, llama.cpp row 2i with row 2i + 1."""
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        heads = config["num_attention_heads"]
    elif name.endswith(("k_proj.weight", "k_proj.bias")):
        heads = kv_heads(config)
    else:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


@dataclass(frozen=True)
class Family:
    """One architecture: its name in GGUF, and how its weights change on the way."""

    arch: gguf.MODEL_ARCH
    change: Change


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(gguf.MODEL_ARCH.LLAMA, _pair_rotary_rows),
    "MistralForCausalLM": Family(gguf.MODEL_ARCH.LLAMA, _pair_rotary_rows),
    "Qwen2ForCausalLM": Family(gguf.MODEL_ARCH.QWEN2, _unchanged),
}
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # llama3 is a tensor, see rope_factors


def family_of(config: Config) -> Family:
    """The family of a config.json.

    Raises:
        ExportError: an architecture, or a variant of one, that cannot be written.
    """
    name = (config.get("architectures") or ["(none named)"])[0]
    if name not in FAMILIES:
        near = get_close_matches(name, FAMILIES, n=1, cutoff=0.6)
        raise ExportError(
            f"cannot write the architecture {name} as GGUF yet",
            f"one of {', '.join(FAMILIES)}" + (f" (nearest: {near[0]})" if near else ""),
            "export it as merged safetensors instead",
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ExportError(f"{name} with hidden_act {activation}", "silu, the only one that llama.cpp has here")
    kind = _rope(config)["rope_type"]
    if kind not in ROPE_TYPES:
        raise ExportError(f"rotary embeddings of the type {kind}", f"one of {', '.join(ROPE_TYPES)}")
    return FAMILIES[name]


def kv_heads(config: Config) -> int:
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def head_dim(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def context_limit(config: Config) -> int:
    """Tokens up to which llama.cpp computes what transformers does.

    llama.cpp has no sliding window for these families, so the window is the limit where the model uses one.
    """
    limit = config["max_position_embeddings"]
    window = config.get("sliding_window")
    uses_it = config.get("use_sliding_window", True)
    return min(limit, window) if window and uses_it else limit


def add_metadata(writer: gguf.GGUFWriter, config: Config, context_length: int) -> None:
    """Write the sizes and the rotary settings of the model."""
    size = head_dim(config)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(context_length)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(kv_heads(config))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_rope(writer, _rope(config), config)


def _rope(config: Config) -> Config:
    """Rotary settings; transformers 5 has ``rope_parameters``, older files ``rope_scaling`` and ``rope_theta``."""
    newer = config.get("rope_parameters")
    older = {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}
    rope = dict(newer or older)
    rope.setdefault("rope_type", rope.pop("type", "default"))
    return rope


def _add_rope(writer: gguf.GGUFWriter, rope: Config, config: Config) -> None:
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(original)


def rope_factors(config: Config) -> torch.Tensor | None:
    """Llama 3.1's division of each rotary frequency, shape [head_dim / 2]; None for other models.

    Frequencies with a wavelength beyond the original context are divided by ``factor``, short ones are kept, and
    those between are blended (``rope_type: llama3`` in transformers).
    """
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    size, factor, original = head_dim(config), rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    frequency_F = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    turns_F = original * frequency_F / (2 * math.pi)  # full turns within the original context
    kept_F = ((turns_F - low) / (high - low)).clamp(0.0, 1.0)
    return (1.0 / ((1 - kept_F) / factor + kept_F)).float()
