"""RMSNorm's plain twin against autograd in float64 and against transformers' own modules."""

from __future__ import annotations

import pytest
import torch
from kernel_tensors import LOW, error, filled, only_written_inside, view

from whet.engine.kernels import dispatch
from whet.engine.kernels.launch import distinct, noted
from whet.engine.kernels.norm import rms_norm, rms_norm_backward

EPS = 1e-5
SHAPES = [(7, 24), (5, 3, 8), (2, 3, 4, 6), (9,)]


def formula(x: torch.Tensor, weight: torch.Tensor, offset: float) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * (weight + offset)


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_in_float64(
    shape: tuple[int, ...], offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BLOCK_ELEMENTS", 60)  # several blocks, the last one smaller
    x = filled(shape, torch.float64, 1).requires_grad_()
    weight, dy, residual = (filled(s, torch.float64, n) for n, s in ((2, shape[-1:]), (3, shape), (4, shape)))
    expected = formula(x, weight, offset)
    (dx,) = torch.autograd.grad(expected, x, dy)
    out, dout = view(shape, torch.float64), view(shape, torch.float64)
    y, rstd = rms_norm(x.detach(), weight, EPS, offset, out)
    assert y is out and rstd.shape == shape[:-1] and rstd.dtype == torch.float64
    assert error(y, expected) <= 1e-14
    assert error(rms_norm_backward(dy, x.detach(), weight, rstd, offset), dx) <= 1e-13
    assert rms_norm_backward(dy, x.detach(), weight, rstd, offset, residual, dout) is dout
    assert error(dout, dx + residual) <= 1e-13
    if len(shape) > 1:
        assert only_written_inside(out) and only_written_inside(dout)


@pytest.mark.parametrize("into", ["new", "dy", "residual"])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_gradient_in_float64(
    shape: tuple[int, ...], offset: float, into: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BLOCK_ELEMENTS", 60)
    x, dy, residual, weight, before = (
        filled(s, torch.float64, n) for n, s in enumerate((shape, shape, shape, shape[-1:], shape[-1:]))
    )
    weight.requires_grad_()
    (dweight,) = torch.autograd.grad(formula(x, weight, offset), weight, dy)
    _, rstd = rms_norm(x, weight.detach(), EPS, offset)
    dx = rms_norm_backward(dy, x, weight.detach(), rstd, offset, residual)
    out, found = {"new": view(shape, torch.float64), "dy": dy, "residual": residual}[into], before.clone()
    rms_norm_backward(dy, x, weight.detach(), rstd, offset, residual, out, found)
    assert torch.equal(out, dx)
    assert error(found - before, dweight) <= 1e-13


def modules(name: str, width: int, dtype: torch.dtype) -> torch.nn.Module:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = {"llama": LlamaRMSNorm, "gemma": Gemma2RMSNorm}[name](width, eps=EPS)
    with torch.no_grad():
        norm.weight.copy_(filled((width,), torch.float32, 5) * 0.3 + (name == "llama"))
    return norm.to(dtype)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize(("name", "offset"), [("llama", 0.0), ("gemma", 1.0)])
def test_rounds_as_transformers_does(name: str, offset: float, dtype: torch.dtype) -> None:
    norm = modules(name, 72, dtype)
    x = filled((33, 72), dtype, 6, scale=3.0)
    y, rstd = rms_norm(x, norm.weight.detach(), EPS, offset)
    assert rstd.dtype == torch.float32
    assert torch.equal(y, norm(x))


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize(("name", "offset"), [("llama", 0.0), ("gemma", 1.0)])
def test_backward_is_no_worse_than_transformers(name: str, offset: float, dtype: torch.dtype) -> None:
    norm = modules(name, 72, dtype)
    x, dy = filled((33, 72), dtype, 7).requires_grad_(), filled((33, 72), dtype, 8)
    weight = norm.weight.detach()
    (theirs,) = torch.autograd.grad(norm(x), x, dy)
    wide = x.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(formula(wide, weight.double(), offset), wide, dy.double())
    _, rstd = rms_norm(x.detach(), weight, EPS, offset)
    ours = rms_norm_backward(dy, x.detach(), weight, rstd, offset)
    assert ours.dtype == dtype
    assert error(ours, exact) <= error(theirs, exact) * 1.01 + 1e-7


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize(("name", "offset"), [("llama", 0.0), ("gemma", 1.0)])
def test_the_weights_gradient_is_no_worse_than_transformers(name: str, offset: float, dtype: torch.dtype) -> None:
    """In float32, of n as the forward rounded it: theirs of a float32 weight, which keeps the sum from rounding."""
    norm = modules(name, 72, dtype).float()
    x, dy = filled((33, 3, 72), dtype, 7), filled((33, 3, 72), dtype, 8)
    (theirs,) = torch.autograd.grad(norm(x), [norm.weight], dy.to(norm(x).dtype))
    weight = norm.weight.detach().to(dtype)
    _, rstd = rms_norm(x, weight, EPS, offset)
    dx, dweight = view(x.shape, dtype), filled((72,), torch.float32, 9)
    before = dweight.clone()
    rms_norm_backward(dy, x, weight, rstd, offset, None, dx, dweight)
    assert error(dweight - before, theirs) <= 1e-6
    assert torch.equal(dx, rms_norm_backward(dy, x, weight, rstd, offset)) and only_written_inside(dx)


def test_heads_inside_a_wider_buffer_and_in_place() -> None:
    """q of a [q | k | v] buffer, normalised where it lies."""
    buffer = filled((11, 6, 16), torch.bfloat16, 9)
    q, rest = buffer[:, :4], buffer[:, 4:].clone()
    weight = filled((16,), torch.bfloat16, 10)
    expected, rstd = rms_norm(q.clone(), weight, EPS)
    found, again = rms_norm(q, weight, EPS, out=q)
    assert torch.equal(found, expected) and torch.equal(buffer[:, :4], expected) and torch.equal(rstd, again)
    assert torch.equal(buffer[:, 4:], rest)


def test_a_gradient_may_be_overwritten() -> None:
    x, dy, residual = (filled((11, 16), torch.bfloat16, seed) for seed in (11, 12, 13))
    weight = filled((16,), torch.bfloat16, 14)
    _, rstd = rms_norm(x, weight, EPS)
    expected = rms_norm_backward(dy, x, weight, rstd, 0.0, residual)
    for name in ("dy", "residual"):
        given = {"dy": dy.clone(), "residual": residual.clone()}
        out = given[name]
        rms_norm_backward(given["dy"], x, weight, rstd, 0.0, given["residual"], out)
        assert torch.equal(out, expected), name


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    x, dy, weight = filled((40, 96), dtype, 15), filled((40, 96), dtype, 16), filled((96,), dtype, 17)
    y, rstd = rms_norm(x, weight, EPS)
    dx = rms_norm_backward(dy, x, weight, rstd)
    for part in (slice(0, 1), slice(13, 30)):
        some, some_rstd = rms_norm(x[part], weight, EPS)
        assert torch.equal(some, y[part]) and torch.equal(some_rstd, rstd[part])
        assert torch.equal(rms_norm_backward(dy[part], x[part], weight, some_rstd), dx[part])


def test_no_rows() -> None:
    y, rstd = rms_norm(torch.empty(0, 8), torch.ones(8), EPS)
    assert y.shape == (0, 8) and rstd.shape == (0,)
    dweight = torch.arange(8.0)
    assert rms_norm_backward(y, y, torch.ones(8), rstd, dweight=dweight).shape == (0, 8)
    assert torch.equal(dweight, torch.arange(8.0))


@pytest.mark.parametrize(
    "dweight",
    [torch.zeros(7), torch.zeros(8, dtype=torch.bfloat16), torch.zeros(8, 2)[:, 0]],
    ids=["C", "dtype", "gaps"],
)
def test_a_sum_of_another_form_is_refused(dweight: torch.Tensor) -> None:
    x = torch.ones(3, 8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="dweight"):
        rms_norm_backward(x, x, x[0], torch.ones(3), dweight=dweight)


def test_a_trained_norm_is_noted_without_numbers() -> None:
    """One kernel whatever the number of rows, and another than the frozen one."""
    pytest.importorskip("triton")
    weight = torch.empty(256, device="meta")
    with noted() as launches:
        for rows in (5, 64, 9000):
            x, rstd = torch.empty(rows, 256, device="meta"), torch.empty(rows, device="meta")
            rms_norm_backward(x, x, weight, rstd, dweight=torch.empty_like(weight))
        assert len(distinct(launches)) == 1
        rms_norm_backward(x, x, weight, rstd)
    assert len(launches) == 4 and len(distinct(launches)) == 2


def test_gaps_in_the_last_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        rms_norm(torch.ones(8, 8).t(), torch.ones(8), EPS)
