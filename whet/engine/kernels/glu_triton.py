# mypy: ignore-errors
"""The gated MLP's elementwise part on the GPU; ``glu`` says what is computed."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from whet.engine.kernels.glu import GELU_CUBE, GELU_SCALE
from whet.engine.kernels.launch import launch

# Columns of one program of 8 warps: 8 bfloat16 (16 bytes) a thread from each of gate, up and dh.
BLOCK_COLUMNS = 2048


@triton.jit
def _sigmoid(gate, scale, cube, GELU: tl.constexpr):
    """sigmoid(s(g)); forward and backward share it, so that both make the same h."""
    if GELU:
        gate = (gate + cube * (gate * gate * gate)) * scale
    return tl.sigmoid(gate)


@triton.jit
def _forward(GU, OUT, width, gu_token, out_token, scale, cube, GELU: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = c < width
    gate_at = GU + token * gu_token + c
    gate = tl.load(gate_at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_at + width, mask=mask, other=0.0).to(tl.float32)
    h = _sigmoid(gate, scale, cube, GELU) * gate * up
    tl.store(OUT + token * out_token + c, h.to(OUT.dtype.element_ty), mask=mask)


@triton.jit
def _backward(DH, GU, width, dh_token, gu_token, scale, cube, GELU: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = c < width
    gate_at = GU + token * gu_token + c
    dh_at = DH + token * dh_token + c
    gate = tl.load(gate_at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_at + width, mask=mask, other=0.0).to(tl.float32)
    dh = tl.load(dh_at, mask=mask, other=0.0).to(tl.float32)
    sigmoid = _sigmoid(gate, scale, cube, GELU)
    act = sigmoid * gate
    slope = (1.0 - sigmoid) * act
    if GELU:
        slope *= (1.0 + 3.0 * cube * gate * gate) * scale
    tl.store(dh_at, (act * up).to(DH.dtype.element_ty), mask=mask)
    tl.store(gate_at, ((slope + sigmoid) * dh * up).to(GU.dtype.element_ty), mask=mask)
    tl.store(gate_at + width, (dh * act).to(GU.dtype.element_ty), mask=mask)


def _launch(width: int, tokens: int, activation: str) -> tuple[tuple[int, int], dict[str, Any]]:
    block = min(BLOCK_COLUMNS, triton.next_power_of_2(width))
    constants = {"GELU": activation == "gelu_tanh", "BLOCK": block, "num_warps": max(1, block // 256)}
    return (tokens, triton.cdiv(width, block)), constants


def forward(gu_T2F: torch.Tensor, out_TF: torch.Tensor, activation: str) -> None:
    """As ``glu.glu``."""
    tokens, width = out_TF.shape
    grid, constants = _launch(width, tokens, activation)
    strides = (gu_T2F.stride(0), out_TF.stride(0))
    launch(_forward, grid, gu_T2F, out_TF, width, *strides, GELU_SCALE, GELU_CUBE, **constants)


def backward_(dh_TF: torch.Tensor, gu_T2F: torch.Tensor, activation: str) -> None:
    """As ``glu.glu_backward_``."""
    tokens, width = dh_TF.shape
    grid, constants = _launch(width, tokens, activation)
    strides = (dh_TF.stride(0), gu_T2F.stride(0))
    launch(_backward, grid, dh_TF, gu_T2F, width, *strides, GELU_SCALE, GELU_CUBE, **constants)
