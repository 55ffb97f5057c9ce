"""A decoder layer's parts, and the small steps that attention and MLP share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from whet.engine.kernels.copy import copy_rows
from whet.engine.kernels.dispatch import wide
from whet.engine.kernels.norm import rms_norm, rms_norm_backward
from whet.engine.spec import LayerParts, LayerSpec
from whet.engine.weights import Group

Kept = dict[str, Any]  # what a layer has made, by the names of layer.py
NORMS = ("input_norm", "pre_mlp_norm", "post_attention_norm", "post_mlp_norm", "q_norm", "k_norm")


@dataclass
class Layer:
    """A layer's numbers, norms and weight groups."""

    spec: LayerSpec
    parts: LayerParts
    qkv: Group
    o: Group
    gate_up: Group
    down: Group

    @property
    def groups(self) -> tuple[Group, Group, Group, Group]:
        return self.qkv, self.o, self.gate_up, self.down

    @cached_property
    def norms(self) -> dict[str, Any]:
        """The norms' weights that are trained, by their names in ``LayerParts``."""
        weights = {name: getattr(self.parts, name) for name in NORMS}
        return {name: weight for name, weight in weights.items() if weight is not None and weight.requires_grad}

    @cached_property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained, in the order of ``layer_backward``'s gradients: of the groups, then the norms."""
        return [*(parameter for group in self.groups for parameter in group.parameters), *self.norms.values()]

    def norm_sums(self) -> dict[str, torch.Tensor]:
        """Zeros, to which a backward adds the gradients of ``norms``."""
        return {name: torch.zeros_like(weight, dtype=wide(weight.dtype)) for name, weight in self.norms.items()}


def norm(
    x: torch.Tensor, weight: torch.Tensor | None, spec: LayerSpec, out: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normed rows and their reciprocal root mean squares."""
    assert weight is not None
    normed, rstd = rms_norm(x, weight, spec.eps, spec.norm_offset, out=out)
    return normed, rstd


def norm_into(
    x_ND: torch.Tensor, weight_D: torch.Tensor, columns: int, spec: LayerSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normed rows with spare columns at the right, and their reciprocal root mean squares."""
    out = x_ND.new_empty(len(x_ND), spec.hidden + columns)
    _, rstd = rms_norm(x_ND, weight_D, spec.eps, spec.norm_offset, out=out[:, : spec.hidden])
    return out, rstd


def with_columns(x_NK: torch.Tensor, columns: int) -> torch.Tensor:
    """A copy with spare columns at the right; without any, the tensor itself."""
    if not columns:
        return x_NK
    out = x_NK.new_empty(len(x_NK), x_NK.shape[1] + columns)
    copy_rows(x_NK, out[:, : x_NK.shape[1]])
    return out


def norm_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    rstd: torch.Tensor,
    kept: Kept,
    layer: Layer,
    name: str,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``rms_norm_backward`` of the norm with this name in ``LayerParts``; adds to its sum in ``kept["norms"]`` where it
    is trained."""
    weight, dweight = getattr(layer.parts, name), kept["norms"].get(name)
    return rms_norm_backward(dy, x, weight, rstd, layer.spec.norm_offset, residual, out, dweight)


def output_norm_backward(
    dy_ND: torch.Tensor,
    kept: Kept,
    layer: Layer,
    names: tuple[str, str],
    norm: str,
    group: Group,
) -> torch.Tensor:
    """The gradient at a group's output, with the group's spare columns: through the norm on it, or as it is.

    Args:
        names: of the norm's input and rstd in ``kept``. norm: of its weight in ``LayerParts``.
    """
    if not layer.spec.post_norms:
        return with_columns(dy_ND, group.R)
    out_NDR = dy_ND.new_empty(len(dy_ND), dy_ND.shape[1] + group.R)
    value, rstd = (kept[name] for name in names)
    out_ND = out_NDR[:, : dy_ND.shape[1]]
    norm_backward(dy_ND, value, rstd, kept, layer, norm, out=out_ND)
    return out_NDR
