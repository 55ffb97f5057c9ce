"""A decoder layer's parts, and the small steps that attention and MLP share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from whet.engine.kernels.copy import copy_rows
from whet.engine.kernels.norm import rms_norm, rms_norm_backward
from whet.engine.spec import LayerParts, LayerSpec
from whet.engine.weights import Group

Kept = dict[str, Any]  # what a layer has made, by the names of layer.py


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

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """A and B of all adapters, in the order of ``layer_backward``'s gradients."""
        return [parameter for group in self.groups for parameter in group.parameters]


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
    """A copy with spare columns at the right."""
    out = x_NK.new_empty(len(x_NK), x_NK.shape[1] + columns)
    copy_rows(x_NK, out[:, : x_NK.shape[1]])
    return out


def output_norm_backward(
    dy_ND: torch.Tensor,
    kept: Kept,
    layer: Layer,
    names: tuple[str, str],
    weight_D: torch.Tensor | None,
    group: Group,
) -> torch.Tensor:
    """The gradient at a group's output, with the group's spare columns: through the norm on it, or as it is."""
    if not layer.spec.post_norms:
        return with_columns(dy_ND, group.R)
    out_NDR = dy_ND.new_empty(len(dy_ND), dy_ND.shape[1] + group.R)
    value, rstd = (kept[name] for name in names)
    out_ND = out_NDR[:, : dy_ND.shape[1]]
    rms_norm_backward(dy_ND, value, weight_D, rstd, layer.spec.norm_offset, out=out_ND)
    return out_NDR
