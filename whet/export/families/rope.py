"""Rotary settings: the keys and the factor tensors that llama.cpp reads.

Formulas are those of transformers' ``modeling_rope_utils``; llama.cpp turns each frequency by one over its factor.
"""

from __future__ import annotations

import math

import gguf
import torch

from whet.export.families.family import Config, head_dim, refuse

FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True, "mscale": None, "mscale_all_dim": None}


def rope_settings(config: Config, layers: str = "full_attention") -> Config:
    """The rotary settings of one kind of layer, as transformers 5 names them."""
    settings = config["rope_parameters"]
    return dict(settings.get(layers, settings))


def rotary_size(config: Config) -> int:
    """How many of a head's numbers are rotated."""
    return int(head_dim(config) * rope_settings(config).get("partial_rotary_factor", 1.0))


def add_rope(writer: gguf.GGUFWriter, config: Config) -> None:
    """Write base, scaling and rotated size."""
    rope = rope_settings(config)
    kind = rope["rope_type"]
    writer.add_rope_dimension_count(rotary_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        _add_yarn(writer, rope, config)
    elif kind == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(original_length(config))
        writer.add_rope_scaling_attn_factors(_longrope_attention(config))


def original_length(config: Config) -> int:
    """Tokens of context before the rotary embeddings were stretched."""
    rope = rope_settings(config)
    found = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return found or config["max_position_embeddings"]


def check_rope(config: Config, allowed: tuple[str, ...]) -> None:
    """Raise :class:`ExportError` for rotary embeddings that llama.cpp does not compute."""
    rope = rope_settings(config)
    kind = rope["rope_type"]
    if kind not in allowed:
        raise refuse(config, f"rotary embeddings of the type {kind}", f"one of {', '.join(allowed)}")
    changed = [key for key, usual in YARN_DEFAULTS.items() if rope.get(key, usual) != usual]
    if kind == "yarn" and changed:
        raise refuse(config, f"YaRN settings of its own ({', '.join(changed)})", "the usual ones")


def rope_tensors(config: Config) -> dict[str, torch.Tensor]:
    """Divisors of the rotary frequencies, by the name of their tensor; each of shape [rotated size / 2]."""
    rope = rope_settings(config)
    if rope["rope_type"] == "llama3":
        return {FREQUENCIES: _llama3_factors(rope, head_dim(config))}
    if rope["rope_type"] == "longrope":
        pairs = {LONG: rope["long_factor"], SHORT: rope["short_factor"]}
        return {name: torch.tensor(factors, dtype=torch.float32) for name, factors in pairs.items()}
    return {}


def _llama3_factors(rope: Config, size: int) -> torch.Tensor:
    """Llama 3.1's scaling.

    Frequencies with a wavelength beyond the original context are divided by ``factor``, short ones are kept, and
    those between are blended (``rope_type: llama3`` in transformers).
    """
    factor, original = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    frequency_F = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    turns_F = original * frequency_F / (2 * math.pi)  # full turns within the original context
    kept_F = ((turns_F - low) / (high - low)).clamp(0.0, 1.0)
    return (1.0 / ((1 - kept_F) / factor + kept_F)).float()


def _longrope_attention(config: Config) -> float:
    """The factor on sine and cosine (LongRoPE, Ding et al. 2024), which both sets of factors share."""
    rope, original = rope_settings(config), original_length(config)
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    factor = rope.get("factor") or config["max_position_embeddings"] / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _add_yarn(writer: gguf.GGUFWriter, rope: Config, config: Config) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(original_length(config))
    if rope.get("attention_factor") is not None:  # llama.cpp multiplies its own factor with this one
        own = 0.1 * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0
        writer.add_rope_scaling_attn_factors(rope["attention_factor"] / own)
