"""Gradient checkpointing of a model's own forward, under the name that this version of transformers has for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PROBES = 12  # the number of layers is found within a twelfth of them: four tries


def recompute(model: Any) -> None:
    """Keep the inputs of the model's layers only, and compute the rest again in the backward."""
    newer = hasattr(model, "activation_checkpointing_enable")  # transformers 5.23 warns of the older name
    enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
    enable(**{f"{'activation' if newer else 'gradient'}_checkpointing_kwargs": {"use_reentrant": False}})


def keep_as_many(model: Any, fits: Callable[[], bool]) -> tuple[int, int]:
    """Under gradient checkpointing, let as many of the last layers keep everything as fit.

    The last layers' activations are freed first, so that they are gone when the first ones are made again.

    Args:
        fits: whether a forward and backward of the largest micro-batch fits now.

    Returns:
        how many layers keep everything, and how many there are; all of them do not fit.
    """
    layers = [module for module in model.modules() if _is_layer(module)]
    fewest, most = 0, len(layers)
    while most - fewest > max(1, len(layers) // PROBES):
        tried = (fewest + most) // 2
        _keep_last(layers, tried)
        fewest, most = (tried, most) if fits() else (fewest, tried)
    _keep_last(layers, fewest)
    return fewest, len(layers)


def _is_layer(module: Any) -> bool:
    """A layer with a switch of its own, as transformers' ``every_n_layers`` uses it."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return isinstance(module, GradientCheckpointingLayer)


def _keep_last(layers: list[Any], count: int) -> None:
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number < len(layers) - count
