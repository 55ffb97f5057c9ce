"""Gemma 1, 2 and 3 (text).

llama.cpp scales the embedding as transformers does, and knows softcaps and sliding windows. It expects each norm's
weight with the 1 added that transformers adds while computing, and derives the scale of the attention by itself.
"""

from __future__ import annotations

import gguf
import torch

from whet.export.families.family import Config, Family, head_dim, refuse
from whet.export.families.rope import rope_settings

_LAYERS_OF_27B = {gguf.MODEL_ARCH.GEMMA2: 46, gguf.MODEL_ARCH.GEMMA3: 62}
_PATTERN = {gguf.MODEL_ARCH.GEMMA2: 2, gguf.MODEL_ARCH.GEMMA3: 6}  # every second or sixth layer sees everything


def _norm_plus_one(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    return tensor + 1.0 if name.endswith("norm.weight") else tensor


def _scale_missing(arch: gguf.MODEL_ARCH, config: Config) -> float:
    """The model's scale of q by llama.cpp's, which is 1/sqrt(head_dim), and another one for the 27B models."""
    heads = config["num_attention_heads"]
    large = config["num_hidden_layers"] == _LAYERS_OF_27B[arch]
    theirs = config["hidden_size"] // heads if large else head_dim(config)
    return (theirs / config["query_pre_attn_scalar"]) ** 0.5


def _change_gemma2(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    scale = _scale_missing(gguf.MODEL_ARCH.GEMMA2, config)
    if name.endswith("q_proj.weight") and scale != 1.0:
        return tensor * scale
    return _norm_plus_one(name, tensor, config)


def _change_gemma3(name: str, tensor: torch.Tensor, config: Config) -> torch.Tensor:
    """As Gemma 2, but q is normed, so the scale goes into the norm's weight."""
    changed = _norm_plus_one(name, tensor, config)
    if name.endswith("q_norm.weight"):
        return changed * _scale_missing(gguf.MODEL_ARCH.GEMMA3, config)
    return changed


def _check(config: Config) -> None:
    if config.get("attention_bias"):
        raise refuse(config, "attention_bias", "no biases: llama.cpp has none for Gemma")


def _check_gemma2(config: Config) -> None:
    _check(config)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if not config.get(key):
            raise refuse(config, f"no {key}", "a number: llama.cpp always caps for Gemma 2")


def _check_gemma3(config: Config) -> None:
    _check(config)
    if config.get("attn_logit_softcapping"):
        raise refuse(config, "attn_logit_softcapping", "none: llama.cpp has none for Gemma 3")
    if config.get("use_bidirectional_attention"):
        raise refuse(config, "attention in both directions", "a model that writes text from left to right")
    local = rope_settings(config, "sliding_attention")
    if local["rope_type"] != "default":
        raise refuse(config, f"{local['rope_type']} rotary embeddings in its sliding layers", "default ones")


def _add_window(writer: gguf.GGUFWriter, config: Config, arch: gguf.MODEL_ARCH) -> None:
    """The window, and which layers have it where that is not the family's own pattern."""
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    if not any(sliding):
        if arch == gguf.MODEL_ARCH.GEMMA2:  # without a window in the file llama.cpp takes 4096
            writer.add_sliding_window(config["max_position_embeddings"])
        return
    writer.add_sliding_window(config["sliding_window"])
    usual = [(layer + 1) % _PATTERN[arch] != 0 for layer in range(len(sliding))]
    if sliding != usual:
        writer.add_sliding_window_pattern(sliding)


def _add_gemma2(writer: gguf.GGUFWriter, config: Config) -> None:
    _add_window(writer, config, gguf.MODEL_ARCH.GEMMA2)
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])


def _add_gemma3(writer: gguf.GGUFWriter, config: Config) -> None:
    _add_window(writer, config, gguf.MODEL_ARCH.GEMMA3)
    writer.add_rope_freq_base_swa(rope_settings(config, "sliding_attention")["rope_theta"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])


_GELU = "gelu_pytorch_tanh"
GEMMA = Family(gguf.MODEL_ARCH.GEMMA, _norm_plus_one, _check, activation=_GELU, rope_types=("default",), head=False)
GEMMA2 = Family(
    gguf.MODEL_ARCH.GEMMA2,
    _change_gemma2,
    _check_gemma2,
    _add_gemma2,
    activation=_GELU,
    rope_types=("default", "linear"),
    head=False,
)
GEMMA3 = Family(
    gguf.MODEL_ARCH.GEMMA3,
    _change_gemma3,
    _check_gemma3,
    _add_gemma3,
    activation=_GELU,
    rope_types=("default", "linear"),
)
