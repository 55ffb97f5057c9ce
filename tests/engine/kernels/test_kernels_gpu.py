"""Triton's row kernels on a CUDA device against their plain twins. Run with: pytest -m gpu"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from kernel_tensors import LOW, error, filled, only_written_inside, rotary, view

from whet import runtime
from whet.engine.kernels import dispatch
from whet.engine.kernels.copy import copy_rows
from whet.engine.kernels.glu import glu, glu_backward_
from whet.engine.kernels.launch import compile_all
from whet.engine.kernels.norm import rms_norm, rms_norm_backward
from whet.engine.kernels.rope import rope_

pytestmark = pytest.mark.gpu
EPS = 1e-5
FAR = 2**30 + 2**20  # elements between two rows: the third row begins beyond 2^31
FAR_BYTES = 2 * (2 * FAR + 2**16)


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        pytest.skip("no CUDA device, or no Triton")


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_kernels_are_no_worse_than_their_twins(dtype: torch.dtype) -> None:
    from row_kernel_cases import cases, launches_of, problems

    chosen = cases(dtype, "cuda", large=True)
    compile_all(launches_of(chosen.values()), torch.device("cuda"), runtime.cores())
    found = {name: problems(case, dtype) for name, case in chosen.items()}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_backward_makes_the_forwards_h(activation: str, dtype: torch.dtype) -> None:
    from row_kernel_cases import same_h

    assert same_h(dtype, "cuda", activation)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norm_rounds_where_its_twin_does(offset: float, dtype: torch.dtype) -> None:
    from row_kernel_cases import same_rounding

    assert same_rounding(dtype, "cuda", offset) > 0.99


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_weights_gradient_is_of_the_forwards_n(offset: float, dtype: torch.dtype) -> None:
    from row_kernel_cases import sum_error

    assert sum_error(dtype, "cuda", offset) <= 1e-6


def test_who_computes() -> None:
    assert dispatch.uses_triton(torch.empty(1, device="cuda"))
    assert not dispatch.uses_triton(torch.empty(1, device="cuda", dtype=torch.float64))
    assert not dispatch.uses_triton(torch.empty(1))


def test_public_functions_reach_the_kernels() -> None:
    """Through views of one wide buffer, as a layer uses them; float64 goes to the twin on the same device."""
    for dtype in (torch.bfloat16, torch.float64):
        x, dy = (filled((65, 512), dtype, seed, "cuda") for seed in (1, 2))
        weight, out = filled((512,), dtype, 3, "cuda"), view((65, 512), dtype, "cuda")
        y, rstd = rms_norm(x, weight, EPS, out=out)
        expected = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + EPS) * weight.double()
        torch.testing.assert_close(y.double(), expected, rtol=2e-2, atol=1e-6)
        assert only_written_inside(out) and rms_norm_backward(dy, x, weight, rstd).shape == x.shape
        heads, h = y.view(65, 4, 128), view((65, 256), dtype, "cuda")
        before = heads.clone()
        tables = rotary(65, 64, torch.float32, "cuda")
        rope_(heads, *tables)
        rope_(heads, *tables, inverse=True)
        torch.testing.assert_close(heads, before, rtol=2e-2, atol=0.1)
        glu(x, h, "silu")
        dh = filled((65, 256), dtype, 4, "cuda")
        glu_backward_(dh, x, "silu")
        assert torch.equal(dh, h)
        copy_rows(h, dh)
        assert torch.equal(dh, h)


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    for width in (128, 4096):
        x, dy, weight = (filled(s, dtype, 5, "cuda") for s in ((300, width), (300, width), (width,)))
        y, rstd = rms_norm(x, weight, EPS)
        dx = rms_norm_backward(dy, x, weight, rstd)
        part = slice(101, 250)
        some, some_rstd = rms_norm(x[part], weight, EPS)
        assert torch.equal(some, y[part]) and torch.equal(some_rstd, rstd[part])
        assert torch.equal(rms_norm_backward(dy[part], x[part], weight, some_rstd), dx[part])


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("shape", [(2100, 8, 128), (1500, 2560), (600, 8192), (300, 16384)], ids=str)
def test_the_weights_gradient_is_the_same_each_time(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Added to what is there, in float32; beside it dx is as with a frozen weight."""
    x, dy, weight = (filled(s, dtype, seed, "cuda") for seed, s in enumerate((shape, shape, shape[-1:])))
    _, rstd = rms_norm(x, weight, EPS, 1.0)
    normed = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + EPS)
    exact = (dy.double() * normed).flatten(0, -2).sum(0)
    sums = [torch.ones(shape[-1], device="cuda") for _ in range(3)]
    for dweight in sums:
        dx = rms_norm_backward(dy, x, weight, rstd, 1.0, dweight=dweight)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])
    assert error(sums[0] - 1, exact) <= 1e-5
    assert error(dx, rms_norm_backward(dy, x, weight, rstd, 1.0)) <= 5e-3


def test_rows_beyond_two_billion_elements() -> None:
    """A buffer of 4 GiB: offsets need 64 bits."""
    if torch.cuda.mem_get_info()[0] < 2 * FAR_BYTES:
        pytest.skip("too little free memory")
    buffer = torch.zeros(2 * FAR + 2**16, dtype=torch.bfloat16, device="cuda")
    far = buffer.as_strided((3, 8192), (FAR, 1))
    near, weight = filled((3, 8192), torch.bfloat16, 6, "cuda"), torch.ones(8192, dtype=torch.bfloat16, device="cuda")
    copy_rows(near, far)
    assert torch.equal(far, near)
    y, rstd = rms_norm(near, weight, EPS)
    far_y, far_rstd = rms_norm(far, weight, EPS)
    assert torch.equal(far_y, y) and torch.equal(far_rstd, rstd)
    dx = rms_norm_backward(near, near, weight, rstd, residual=near)
    assert torch.equal(rms_norm_backward(far, far, weight, rstd, residual=far), dx)
    sums = torch.zeros(2, 8192, device="cuda")
    for rows, dweight in zip((near, far), sums, strict=True):
        rms_norm_backward(rows, rows, weight, rstd, dweight=dweight)
    assert torch.equal(*sums) and bool(sums.any())
    tables = rotary(3, 64, torch.float32, "cuda")
    for rows in (near, far):
        rope_(rows.unflatten(1, (64, 128)), *tables)
    assert torch.equal(far, near)
    dh = filled((3, 4096), torch.bfloat16, 7, "cuda")
    far_dh, h = dh.clone(), torch.empty_like(dh)
    glu(far, h, "silu")
    glu_backward_(dh, near, "silu")
    glu_backward_(far_dh, far, "silu")
    assert torch.equal(far, near) and torch.equal(far_dh, dh) and torch.equal(h, dh)
