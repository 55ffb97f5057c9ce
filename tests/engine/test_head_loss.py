"""Losses and log-probabilities under a frozen head: chunks, softcap, bias, gradients made in the forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from whet.engine.loss import IGNORE, head_loss, module_loss, token_logprobs

Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def example(rows: int, hidden: int, vocabulary: int, bias: bool, dtype: torch.dtype = torch.float64) -> Row:
    generator = torch.Generator().manual_seed(rows)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    targets_N = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets_N[2::5] = IGNORE
    return (
        random(rows, hidden).requires_grad_(),
        random(vocabulary, hidden),
        targets_N,
        random(vocabulary) if bias else None,
    )


def plain(hidden_ND, weight_VD, targets_N, bias, softcap) -> torch.Tensor:
    """The specification: all log-probabilities at once."""
    logits_NV = F.linear(hidden_ND, weight_VD, bias)
    if softcap is not None:
        logits_NV = torch.tanh(logits_NV / softcap) * softcap
    return -F.cross_entropy(logits_NV, targets_N, reduction="none", ignore_index=IGNORE)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("softcap", [None, 30.0, 3.0])
@pytest.mark.parametrize("chunk", [1, 4, 1024])
@pytest.mark.parametrize("shape", [(17, 12, 61), (3, 5, 3)])
def test_losses_and_gradients_are_those_of_the_plain_form(bias, softcap, chunk, shape) -> None:
    hidden_ND, weight_VD, targets_N, bias_V = example(*shape, bias)
    expected_N = plain(hidden_ND, weight_VD, targets_N, bias_V, softcap)
    more = {"bias": bias_V, "softcap": softcap, "chunk_rows": chunk}
    logp_N = token_logprobs(hidden_ND, weight_VD, targets_N, **more)
    total = head_loss(hidden_ND, weight_VD, targets_N, **more)
    assert logp_N.dtype == total.dtype == torch.float64
    assert (logp_N - expected_N).abs().max() <= 1e-12
    assert abs(total + expected_N.sum()) <= 1e-11

    weights_N = torch.linspace(-1, 2, len(targets_N)).double()
    pairs = [((logp_N * weights_N).sum(), (expected_N * weights_N).sum()), (total * 0.37, -expected_N.sum() * 0.37)]
    for found, expected in pairs:
        (ours_ND,), (theirs_ND,) = (torch.autograd.grad(x, hidden_ND, retain_graph=True) for x in (found, expected))
        assert (ours_ND - theirs_ND).abs().max() <= 1e-12


@pytest.mark.parametrize("softcap", [None, 30.0, 2.0])
@pytest.mark.parametrize("function", [head_loss, token_logprobs])
def test_gradients_are_those_of_finite_differences(function: Callable[..., torch.Tensor], softcap) -> None:
    hidden_ND, weight_VD, targets_N, bias_V = example(6, 4, 11, bias=True)

    def loss(x_ND: torch.Tensor) -> torch.Tensor:
        return function(x_ND, weight_VD, targets_N, bias=bias_V, softcap=softcap, chunk_rows=4)

    assert torch.autograd.gradcheck(loss, (hidden_ND,), eps=1e-6, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_any_head_goes_through_its_own_forward(softcap: float | None) -> None:
    hidden_ND, weight_VD, targets_N, bias_V = example(17, 12, 61, bias=True)
    head = torch.nn.Linear(12, 61, dtype=torch.float64)
    head.load_state_dict({"weight": weight_VD, "bias": bias_V})
    found = module_loss(hidden_ND, head, targets_N, softcap=softcap, chunk_rows=5)
    expected = -plain(hidden_ND, head.weight, targets_N, head.bias, softcap).sum()
    assert abs(found - expected) <= 1e-11
    wanted = [hidden_ND, head.weight, head.bias]
    for ours, theirs in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        assert (ours - theirs).abs().max() <= 1e-11


def test_without_gradients_the_values_are_the_same() -> None:
    hidden_ND, weight_VD, targets_N, _ = example(17, 12, 61, bias=False)
    with_N = token_logprobs(hidden_ND, weight_VD, targets_N, softcap=30.0, chunk_rows=4)
    with torch.no_grad():
        without_N = token_logprobs(hidden_ND, weight_VD, targets_N, softcap=30.0, chunk_rows=4)
    assert torch.equal(with_N, without_N) and not without_N.requires_grad
    assert not token_logprobs(hidden_ND.detach(), weight_VD, targets_N).requires_grad


def test_the_size_of_chunks_changes_no_row() -> None:
    hidden_ND, weight_VD, targets_N, _ = example(40, 16, 200, bias=False)
    whole, parts = (token_logprobs(hidden_ND, weight_VD, targets_N, chunk_rows=rows) for rows in (1024, 8))
    assert (whole - parts).abs().max() <= 1e-13


def test_no_rows_are_zero_with_zero_gradients() -> None:
    hidden_ND = torch.empty(0, 8, requires_grad=True)
    total = head_loss(hidden_ND, torch.randn(5, 8), torch.empty(0, dtype=torch.int64))
    assert total == 0 and torch.autograd.grad(total, hidden_ND)[0].shape == (0, 8)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_in_bfloat16_it_is_no_worse_than_autograd_with_float32_logits(softcap: float | None) -> None:
    hidden_ND, weight_VD, targets_N, _ = example(130, 64, 211, bias=False, dtype=torch.bfloat16)
    weight_VD *= 0.25

    def gradient(function: Callable[..., torch.Tensor], wide: torch.dtype) -> torch.Tensor:
        leaf = hidden_ND.detach().to(wide).requires_grad_()
        (grad,) = torch.autograd.grad(function(leaf, weight_VD.to(wide)), leaf)
        return grad.double()

    def float32_logits(leaf: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return module_loss(leaf, lambda x: F.linear(x, weight), targets_N, softcap=softcap)

    def ours(leaf: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return head_loss(leaf, weight, targets_N, softcap=softcap)

    exact = gradient(ours, torch.float64)
    mine, theirs = ((gradient(f, torch.bfloat16) - exact).norm() / exact.norm() for f in (ours, float32_logits))
    assert mine <= 1.1 * theirs


def test_what_is_kept_is_as_large_as_the_hidden_states() -> None:
    hidden_ND, weight_VD, targets_N, _ = example(65, 16, 1009, bias=False)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        token_logprobs(hidden_ND, weight_VD, targets_N, softcap=30.0)
    assert kept and max(kept) <= hidden_ND.numel()
