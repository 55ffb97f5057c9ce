"""Phi-3, Phi-3.5 and Phi-4-mini: q, k, v in one matrix and gate, up in another, as llama.cpp has them too."""

from __future__ import annotations

import gguf

from whet.export.families.family import Config, Family, head_dim, refuse


def _window(config: Config) -> int | None:
    """llama.cpp reads a sliding window for Phi-3, and then leaves it out."""
    return config.get("sliding_window")


def _check(config: Config) -> None:
    if head_dim(config) * config["num_attention_heads"] != config["hidden_size"]:
        raise refuse(config, f"a head_dim of {head_dim(config)}", "hidden_size / num_attention_heads")


PHI3 = Family(gguf.MODEL_ARCH.PHI3, check=_check, window=_window, rope_types=("default", "longrope"))
