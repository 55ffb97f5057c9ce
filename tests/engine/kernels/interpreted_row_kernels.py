"""Triton's row kernels on a CPU. test_row_kernels_interpreted runs it in a process with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
import torch
from kernel_tensors import LOW
from row_kernel_cases import cases, problems, same_h, same_rounding, sum_error

from whet.engine.kernels import norm_triton

# Triton's interpreter cuts off the last bits of a bfloat16 instead of rounding: up to twice the error, each time.
CUT = 4.0


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_kernels_equal_their_twins(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_triton, "MULTIPROCESSORS", 1)  # few programs: each takes several tiles
    found = {name: problems(case, dtype, CUT) for name, case in cases(dtype, "cpu", large=False).items()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_backward_makes_the_forwards_h(activation: str) -> None:
    assert same_h(torch.bfloat16, "cpu", activation)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norm_rounds_where_its_twin_does(offset: float) -> None:
    assert same_rounding(torch.float16, "cpu", offset) > 0.99


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_weights_gradient_is_of_the_forwards_n(offset: float) -> None:
    assert sum_error(torch.float16, "cpu", offset) <= 1e-6
