"""The gated MLP's elementwise part, forward and in-place backward.

h = act(gate) * up, with act(g) = g * sigmoid(s(g)):
silu: s(g) = g;  gelu_tanh: s(g) = 2 sqrt(2 / pi) (g + 0.044715 g^3), since 1 + tanh(z) = 2 sigmoid(2 z).

T tokens, F MLP width; ``gu_T2F`` holds [gate | up]. Float32 inside, rounded once. The backward makes h again by the
same expression: it is bit for bit the h of the forward.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from whet.engine.kernels.dispatch import need_rows, row_blocks, uses_triton, wide

Activation = Literal["silu", "gelu_tanh"]
GELU_SCALE = 2 * math.sqrt(2 / math.pi)
GELU_CUBE = 0.044715


def glu(gu_T2F: torch.Tensor, out_TF: torch.Tensor, activation: Activation) -> None:
    """out = act(gate) * up.

    Args:
        gu_T2F: [gate | up]; any stride over tokens, the last dimension contiguous.
        out_TF: where h goes; any stride over tokens.
        activation: "silu" or "gelu_tanh".

    Raises:
        ValueError: an unknown activation, shapes that do not match, or a last dimension with gaps.
    """
    _check(out_TF, gu_T2F, activation)
    if not out_TF.numel():
        return
    if uses_triton(gu_T2F):
        from whet.engine.kernels import glu_triton

        glu_triton.forward(gu_T2F, out_TF, activation)
    else:
        _forward(gu_T2F, out_TF, activation)


def glu_backward_(dh_TF: torch.Tensor, gu_T2F: torch.Tensor, activation: Activation) -> None:
    """In place: dh becomes h (the down projection's adapter needs it), gu becomes [dgate | dup].

    Args:
        dh_TF: gradient of h; any stride over tokens, the last dimension contiguous.
        gu_T2F: [gate | up] of the forward; its values are lost.
        activation: as in ``glu``.

    Raises:
        ValueError: as in ``glu``.
    """
    _check(dh_TF, gu_T2F, activation)
    if not dh_TF.numel():
        return
    if uses_triton(gu_T2F):
        from whet.engine.kernels import glu_triton

        glu_triton.backward_(dh_TF, gu_T2F, activation)
    else:
        _backward_(dh_TF, gu_T2F, activation)


def _check(h_TF: torch.Tensor, gu_T2F: torch.Tensor, activation: str) -> None:
    if activation not in ("silu", "gelu_tanh"):
        raise ValueError(f"activation {activation!r} is unknown; known are 'silu' and 'gelu_tanh'")
    if gu_T2F.shape != (h_TF.shape[0], 2 * h_TF.shape[1]):
        raise ValueError(f"[gate | up] of shape {tuple(gu_T2F.shape)} does not match h of shape {tuple(h_TF.shape)}")
    need_rows(h_TF, gu_T2F)


def _gate(gate: torch.Tensor, activation: Activation) -> torch.Tensor:
    """sigmoid(s(g))"""
    if activation == "silu":
        return gate.sigmoid()
    return (gate + GELU_CUBE * (gate * gate * gate)).mul_(GELU_SCALE).sigmoid_()


def _forward(gu_T2F: torch.Tensor, out_TF: torch.Tensor, activation: Activation) -> None:
    tokens, width = out_TF.shape
    dtype = wide(gu_T2F.dtype)
    for part in row_blocks(tokens, width):
        gate, up = gu_T2F[part, :width].to(dtype), gu_T2F[part, width:].to(dtype)
        out_TF[part] = _gate(gate, activation).mul_(gate).mul_(up)


def _backward_(dh_TF: torch.Tensor, gu_T2F: torch.Tensor, activation: Activation) -> None:
    """act'(g) = sigmoid(s) + act(g) (1 - sigmoid(s)) s'(g)"""
    tokens, width = dh_TF.shape
    dtype = wide(gu_T2F.dtype)
    for part in row_blocks(tokens, width):
        gate, up, dh = (t.to(dtype) for t in (gu_T2F[part, :width], gu_T2F[part, width:], dh_TF[part]))
        sigmoid = _gate(gate, activation)
        act = sigmoid * gate
        slope = (1 - sigmoid).mul_(act)
        if activation == "gelu_tanh":
            slope *= (gate * gate).mul_(3 * GELU_CUBE).add_(1).mul_(GELU_SCALE)
        dgate = slope.add_(sigmoid).mul_(dh).mul_(up)
        dup = dh * act
        dh_TF[part] = act.mul_(up)
        gu_T2F[part, :width] = dgate
        gu_T2F[part, width:] = dup
