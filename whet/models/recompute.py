"""Gradient checkpointing of a model's own forward, under the name that this version of transformers has for it."""

from __future__ import annotations

from typing import Any


def recompute(model: Any) -> None:
    """Keep the inputs of the model's layers only, and compute the rest again in the backward."""
    newer = hasattr(model, "activation_checkpointing_enable")  # transformers 5.23 warns of the older name
    enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
    enable(**{f"{'activation' if newer else 'gradient'}_checkpointing_kwargs": {"use_reentrant": False}})
