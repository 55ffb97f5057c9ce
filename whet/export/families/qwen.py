"""Qwen2, Qwen2.5 and Qwen3."""

from __future__ import annotations

import gguf

from whet.export.families.family import Config, Family, refuse


def _window(config: Config) -> int | None:
    return config.get("sliding_window") if config.get("use_sliding_window") else None


def _check_qwen3(config: Config) -> None:
    if config.get("attention_bias"):
        raise refuse(config, "attention_bias", "no biases: llama.cpp has none for Qwen3")


QWEN2 = Family(gguf.MODEL_ARCH.QWEN2, window=_window)
QWEN3 = Family(gguf.MODEL_ARCH.QWEN3, window=_window, check=_check_qwen3)
