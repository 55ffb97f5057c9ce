"""Gradient checkpointing of a model's own forward, under the name that this version of transformers has for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

PROBES = 12  # the number of layers is found within a twelfth of them: four tries
SHORTAGES = 6  # so many leave no layer that keeps everything


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
    layers = _layers(model)
    fewest, most = 0, len(layers)
    while most - fewest > max(1, len(layers) // PROBES):
        tried = (fewest + most) // 2
        _keep_last(layers, tried)
        fewest, most = (tried, most) if fits() else (fewest, tried)
    _keep_last(layers, fewest)
    return fewest, len(layers)


def keep_fewer(model: Any) -> tuple[int, int]:
    """After a shortage: fewer layers keep everything, or none where few were left; checkpointing is switched on.

    Returns:
        how many layers kept everything before, and how many do now; equal where nothing is left to give up.
    """
    before, layers = kept_layers(model)
    if not before:
        return 0, 0
    if before == layers:
        recompute(model)
    after = max(0, before - math.ceil(layers / SHORTAGES))
    _keep_last(_layers(model), after)
    return before, after


def kept_layers(model: Any) -> tuple[int, int]:
    """How many layers keep everything, and how many there are that can do without."""
    layers = _layers(model)
    return sum(not layer.gradient_checkpointing for layer in layers), len(layers)


def _layers(model: Any) -> list[Any]:
    """Those with a switch of their own, as transformers' ``every_n_layers`` uses it."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _keep_last(layers: list[Any], count: int) -> None:
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number < len(layers) - count
