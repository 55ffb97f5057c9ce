"""The GLU's plain twin against autograd in float64 and against transformers' MLPs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_tensors import LOW, error, filled, only_written_inside, view

from whet.engine.kernels import dispatch
from whet.engine.kernels.copy import copy_rows
from whet.engine.kernels.glu import Activation, glu, glu_backward_

T, WIDTH = 9, 20
ACTIVATIONS: list[Activation] = ["silu", "gelu_tanh"]


def formula(gu_T2F: torch.Tensor, activation: Activation) -> torch.Tensor:
    gate, up = gu_T2F.chunk(2, -1)
    return (F.silu(gate) if activation == "silu" else F.gelu(gate, approximate="tanh")) * up


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_and_backward_in_float64(activation: Activation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BLOCK_ELEMENTS", 4 * WIDTH)
    gu = filled((T, 2 * WIDTH), torch.float64, 1, scale=3.0)
    h, dh = view((T, WIDTH), torch.float64), filled((T, WIDTH), torch.float64, 2)
    leaf = gu.clone().requires_grad_()
    expected = formula(leaf, activation)
    (gradient,) = torch.autograd.grad(expected, leaf, dh)
    glu(gu, h, activation)
    assert error(h, expected) <= 1e-14 and only_written_inside(h)
    glu_backward_(dh, gu, activation)
    assert torch.equal(dh, h), "the backward makes the forward's h"
    assert error(gu, gradient) <= 1e-14
    assert only_written_inside(gu) and only_written_inside(dh)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_is_no_worse_than_transformers(activation: Activation, dtype: torch.dtype) -> None:
    """Transformers rounds act(gate) before it multiplies; here one rounding remains."""
    from transformers.activations import ACT2FN

    act = ACT2FN["silu" if activation == "silu" else "gelu_pytorch_tanh"]
    gu, dh = filled((T, 2 * WIDTH), dtype, 3), filled((T, WIDTH), dtype, 4)
    h = view((T, WIDTH), dtype)
    leaf, wide = gu.clone().requires_grad_(), gu.double().requires_grad_()
    theirs, exact = act(leaf[:, :WIDTH]) * leaf[:, WIDTH:], formula(wide, activation)
    (their_gradient,) = torch.autograd.grad(theirs, leaf, dh)
    (exact_gradient,) = torch.autograd.grad(exact, wide, dh.double())
    glu(gu, h, activation)
    glu_backward_(dh, gu, activation)
    assert torch.equal(dh, h)
    assert error(h, exact) <= error(theirs, exact) * 1.01 + 1e-7
    assert error(gu, exact_gradient) <= error(their_gradient, exact_gradient) * 1.01 + 1e-7


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_gates(activation: Activation) -> None:
    gate = torch.tensor([-1e30, -1e4, -40.0, -0.0, 0.0, 40.0, 1e4])
    gu = torch.cat([gate, torch.ones_like(gate)])[None]
    h, dh = torch.empty(1, 7), torch.ones(1, 7)
    glu(gu, h, activation)
    assert torch.equal(h[0, 3:], gate[3:]) and float(h[0, :3].abs().max()) < 1e-15
    if activation == "gelu_tanh":
        gu, dh = gu[:, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13]], dh[:, 1:]  # the cube of 1e30 is no float32
    glu_backward_(dh, gu, activation)
    assert gu.isfinite().all()


def test_a_token_does_not_depend_on_the_others() -> None:
    gu, dh = filled((T, 2 * WIDTH), torch.bfloat16, 5), filled((T, WIDTH), torch.bfloat16, 6)
    part, dpart = gu[4:6].clone(), dh[4:6].clone()
    glu_backward_(dh, gu, "silu")
    glu_backward_(dpart, part, "silu")
    assert torch.equal(part, gu[4:6]) and torch.equal(dpart, dh[4:6])


def test_no_tokens() -> None:
    glu(torch.empty(0, 8), torch.empty(0, 4), "silu")
    glu_backward_(torch.empty(0, 4), torch.empty(0, 8), "silu")


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="'relu' is unknown"):
        glu(torch.ones(2, 8), torch.ones(2, 4), "relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not match"):
        glu(torch.ones(2, 8), torch.ones(2, 5), "silu")
    with pytest.raises(ValueError, match="contiguous"):
        glu(torch.ones(8, 2).t(), torch.ones(2, 4), "silu")


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_copy_rows_into_a_wider_buffer(dtype: torch.dtype) -> None:
    source, target = filled((T, WIDTH), torch.float32, 7), view((T, WIDTH), dtype)
    copy_rows(source, target)
    assert torch.equal(target, source.to(dtype)) and only_written_inside(target)
    with pytest.raises(ValueError, match="do not fit"):
        copy_rows(source, target[1:])
