"""Models that also see: the language model inside them is what a GGUF holds."""

from __future__ import annotations

from typing import Any

WITH_VISION = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}  # the language model inside


def sees(config: dict[str, Any]) -> bool:
    """Whether the model of this config.json has a vision part beside its language model."""
    return (config.get("architectures") or [None])[0] in WITH_VISION


def language_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json that the language model has alone; another model's as it is."""
    if not sees(config):
        return config
    tied = config.get("tie_word_embeddings", True)
    inside = {"tie_word_embeddings": tied, **config["text_config"]}
    return inside | {"architectures": [WITH_VISION[config["architectures"][0]]]}
