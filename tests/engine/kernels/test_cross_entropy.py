"""Cross-entropy of rows and its gradient in place: against autograd and finite differences in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from whet.engine.kernels import cross_entropy as subject
from whet.engine.kernels.cross_entropy import cross_entropy_rows, cross_entropy_rows_, cross_entropy_slice_

SHAPES = [(1, 1), (5, 3), (33, 61), (4, 1009)]


def example(rows: int, vocabulary: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Strided logits in a poisoned buffer, some of them beyond a cap of 30, and targets; every fourth row has none."""
    generator = torch.Generator().manual_seed(rows)
    buffer = torch.full((rows, vocabulary + 3), float("nan"), dtype=dtype)
    buffer[:, :vocabulary] = torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator) * 12
    targets_N = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets_N[3::4] = -100
    return buffer[:, :vocabulary], targets_N


def plain(logits_NV: torch.Tensor, targets_N: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """The specification."""
    z_NV = logits_NV if softcap is None else torch.tanh(logits_NV / softcap) * softcap
    return F.cross_entropy(z_NV, targets_N, reduction="none", ignore_index=-100)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("scale", [None, 0.37, "rows"])
@pytest.mark.parametrize("chunk", [1, 130, 1 << 18])
def test_loss_and_gradient_are_those_of_autograd(shape, softcap, scale, chunk, monkeypatch) -> None:
    monkeypatch.setattr(subject, "_CHUNK", chunk)
    logits_NV, targets_N = example(*shape)
    factor = torch.linspace(-1, 2, shape[0]).double() if scale == "rows" else scale
    leaf = logits_NV.clone().requires_grad_()
    expected_N = plain(leaf, targets_N, softcap)
    weights = 1.0 if factor is None else factor
    (expected_NV,) = torch.autograd.grad((expected_N * weights).sum(), leaf)

    kept = logits_NV.clone()
    assert (cross_entropy_rows(logits_NV, targets_N, softcap=softcap) - expected_N).abs().max() <= 1e-12
    assert torch.equal(logits_NV, kept)
    loss_N = cross_entropy_rows_(logits_NV, targets_N, softcap=softcap, scale=factor)
    assert loss_N.dtype == torch.float64
    assert (loss_N - expected_N).abs().max() <= 1e-12
    assert (logits_NV - expected_NV).abs().max() <= 1e-13
    assert logits_NV._base is not None and bool(logits_NV._base[:, shape[1] :].isnan().all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("chunk", [1, 130, 1 << 18])
@pytest.mark.parametrize("width", [1, 40, 2000])
def test_slices_are_those_of_the_whole_gradient(shape, softcap, chunk, width, monkeypatch) -> None:
    monkeypatch.setattr(subject, "_CHUNK", chunk)
    logits_NV, targets_N = example(*shape)
    z_NV = logits_NV if softcap is None else torch.tanh(logits_NV / softcap) * softcap
    lse_N = torch.full((shape[0],), float("nan"), dtype=torch.float64)
    loss_N = cross_entropy_rows(logits_NV, targets_N, softcap=softcap, lse_N=lse_N)
    assert torch.equal(loss_N, cross_entropy_rows(logits_NV, targets_N, softcap=softcap))
    assert (lse_N - z_NV.logsumexp(1)).abs().max() <= 1e-12
    whole_NV = logits_NV.clone()
    cross_entropy_rows_(whole_NV, targets_N, softcap=softcap)
    for first in range(0, shape[1], max(width, shape[1] // 5)):
        slice_Nv = logits_NV[:, first : first + width]
        cross_entropy_slice_(slice_Nv, targets_N, lse_N, first, softcap=softcap)
        assert (slice_Nv - whole_NV[:, first : first + width]).abs().max() <= 1e-13
    assert logits_NV._base is not None and bool(logits_NV._base[:, shape[1] :].isnan().all())


@pytest.mark.parametrize("softcap", [None, 30.0, 1.5])
def test_the_gradient_is_that_of_finite_differences(softcap: float | None) -> None:
    logits_NV, targets_N = example(5, 7)
    logits_NV /= 4
    step = 1e-5
    rises = []
    for column in range(7):
        sides = []
        for sign in (1, -1):
            moved = logits_NV.clone()
            moved[:, column] += sign * step
            sides.append(cross_entropy_rows(moved, targets_N, softcap=softcap))
        rises.append((sides[0] - sides[1]) / (2 * step))
    cross_entropy_rows_(logits_NV, targets_N, softcap=softcap)
    assert (logits_NV - torch.stack(rises, 1)).abs().max() <= 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_low_precision_is_rounded_once(dtype: torch.dtype, softcap: float | None) -> None:
    logits_NV, targets_N = example(9, 501, dtype)
    exact = logits_NV.double()
    exact_N = cross_entropy_rows_(exact, targets_N, softcap=softcap)
    loss_N = cross_entropy_rows_(logits_NV, targets_N, softcap=softcap)
    assert loss_N.dtype == torch.float32
    assert (loss_N - exact_N).abs().max() <= 1e-5
    bound = (0.51 * torch.finfo(dtype).eps + 1e-5) * exact.abs() + 1e-6  # float32 logits near 40 are 2e-6 apart
    assert ((logits_NV.double() - exact).abs() <= bound).all()


def test_large_logits_do_not_overflow() -> None:
    logits_NV = torch.tensor([[3e4, -3e4, 0.0], [float("-inf"), 0.0, 0.0]])
    targets_N = torch.tensor([0, 1])
    loss_N = cross_entropy_rows_(logits_NV, targets_N)
    assert torch.allclose(loss_N, torch.tensor([0.0, 0.6931472]))
    assert torch.allclose(logits_NV, torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.5, 0.5]]))


def test_no_rows_have_no_loss() -> None:
    assert cross_entropy_rows_(torch.empty(0, 5), torch.empty(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(("targets", "scale"), [(3, None), (4, 3)])
def test_shapes_that_do_not_fit_are_refused(targets: int, scale: int | None) -> None:
    factor = None if scale is None else torch.ones(scale)
    with pytest.raises(ValueError, match="needed"):
        cross_entropy_rows_(torch.zeros(4, 5), torch.zeros(targets, dtype=torch.int64), scale=factor)


@pytest.mark.parametrize(("targets", "sums"), [(3, 4), (4, 3)])
def test_slices_and_sums_that_do_not_fit_are_refused(targets: int, sums: int) -> None:
    targets_N, lse_N = torch.zeros(targets, dtype=torch.int64), torch.zeros(sums)
    with pytest.raises(ValueError, match="needed"):
        cross_entropy_rows(torch.zeros(4, 5), targets_N, lse_N=lse_N)
    with pytest.raises(ValueError, match="needed"):
        cross_entropy_slice_(torch.zeros(4, 5), targets_N, lse_N, 0)
