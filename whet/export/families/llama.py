"""Llama 2 to 3.2, SmolLM, TinyLlama and Mistral: one architecture in llama.cpp."""

from __future__ import annotations

import gguf
import torch

from whet.export.families.family import Config, Family, kv_heads


def _pair_rotary_rows(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    """q and k: transformers rotates row i with row i + head_dim/2, llama.cpp row 2i with row 2i + 1."""
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        heads = config["num_attention_heads"]
    elif name.endswith(("k_proj.weight", "k_proj.bias")):
        heads = kv_heads(config)
    else:
        return tensor
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _mistral_window(config: Config) -> int | None:
    return config.get("sliding_window")


_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")
LLAMA = Family(gguf.MODEL_ARCH.LLAMA, _pair_rotary_rows, rope_types=_ROPE_TYPES)
MISTRAL = Family(gguf.MODEL_ARCH.LLAMA, _pair_rotary_rows, window=_mistral_window, rope_types=_ROPE_TYPES)
