"""The loss over labelled rows against plain cross-entropy over all logits, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from whet.engine import loss as subject
from whet.engine.loss import IGNORE, labelled_loss

BOUND = 1e-12


def plain(hidden_BTD: torch.Tensor, head: torch.nn.Module, labels_BT: torch.Tensor) -> torch.Tensor:
    """The specification: all logits, shift, sum."""
    logits_BTV = head(hidden_BTD)[:, :-1]
    return F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum")


def example(batch: int, length: int, hidden: int, vocabulary: int, share: float, bias: bool = False):
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    hidden_BTD = torch.randn(batch, length, hidden, dtype=torch.float64, generator=generator, requires_grad=True)
    head = torch.nn.Linear(hidden, vocabulary, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(generator=generator)
    labels_BT = torch.randint(0, vocabulary, (batch, length), generator=generator)
    labels_BT[torch.rand(batch, length, generator=generator) > share] = IGNORE
    if share:
        labels_BT[-1, -1] = 1
    return hidden_BTD, head, labels_BT


def gradients(loss: torch.Tensor, hidden_BTD: torch.Tensor, head: torch.nn.Module) -> list[torch.Tensor]:
    wanted = [hidden_BTD, *(p for p in head.parameters() if p.requires_grad)]
    return list(torch.autograd.grad(loss * 0.37, wanted))  # a factor: the gradient that comes in must be used


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("chunk", [1, 7, 16, 1024])
@pytest.mark.parametrize(("batch", "length", "hidden", "vocabulary"), [(2, 33, 24, 61), (1, 17, 5, 3), (3, 2, 8, 130)])
def test_loss_and_gradients_are_those_of_the_plain_form(
    frozen: bool,
    bias: bool,
    chunk: int,
    batch: int,
    length: int,
    hidden: int,
    vocabulary: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "CHUNK_ROWS", chunk)
    hidden_BTD, head, labels_BT = example(batch, length, hidden, vocabulary, share=0.6, bias=bias)
    head.requires_grad_(not frozen)
    expected, found = plain(hidden_BTD, head, labels_BT), labelled_loss(hidden_BTD, head, labels_BT)
    assert found.dtype == torch.float64
    assert abs(found - expected) <= BOUND * max(1, abs(expected))
    for ours, theirs in zip(gradients(found, hidden_BTD, head), gradients(expected, hidden_BTD, head), strict=True):
        assert (ours - theirs).abs().max() <= BOUND


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_nothing_labelled_is_zero_with_zero_gradients(frozen: bool) -> None:
    hidden_BTD, head, labels_BT = example(2, 9, 8, 20, share=0.0)
    head.requires_grad_(not frozen)
    total = labelled_loss(hidden_BTD, head, labels_BT)
    assert total == 0
    assert all((grad == 0).all() for grad in gradients(total, hidden_BTD, head))


def test_the_first_label_of_a_row_counts_nothing() -> None:
    hidden_BTD, head, labels_BT = example(2, 9, 8, 20, share=1.0)
    masked = labels_BT.clone()
    masked[:, 0] = IGNORE
    assert labelled_loss(hidden_BTD, head, labels_BT) == labelled_loss(hidden_BTD, head, masked)


def test_rows_of_one_token_have_nothing_to_predict() -> None:
    hidden_BTD, head, labels_BT = example(3, 1, 8, 20, share=1.0)
    assert labelled_loss(hidden_BTD, head.requires_grad_(False), labels_BT) == 0


def test_without_gradients_it_is_the_same_loss() -> None:
    hidden_BTD, head, labels_BT = example(2, 33, 24, 61, share=0.5)
    head.requires_grad_(False)
    expected = plain(hidden_BTD, head, labels_BT)
    with torch.no_grad():
        assert abs(labelled_loss(hidden_BTD, head, labels_BT) - expected) <= BOUND * abs(expected)


def test_a_head_that_is_no_plain_linear_layer_goes_through_its_own_forward() -> None:
    """An adapter on the head, for one: its own product must count."""

    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    hidden_BTD, _, labels_BT = example(2, 9, 8, 20, share=0.7)
    head = Doubled(8, 20, dtype=torch.float64).requires_grad_(False)
    expected, found = plain(hidden_BTD, head, labels_BT), labelled_loss(hidden_BTD, head, labels_BT)
    assert abs(found - expected) <= BOUND * abs(expected)
    (ours,), (theirs,) = gradients(found, hidden_BTD, head), gradients(expected, hidden_BTD, head)
    assert (ours - theirs).abs().max() <= BOUND


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_in_bfloat16_it_is_no_worse_than_the_plain_form(frozen: bool) -> None:
    """The error against float64, ours and that of the plain form with float32 logits, from the same bfloat16 input."""
    hidden_BTD, head, labels_BT = example(2, 65, 64, 211, share=0.6)
    low_BTD = hidden_BTD.detach().bfloat16()
    low_head = torch.nn.Linear(64, 211, bias=False, dtype=torch.bfloat16)
    low_head.load_state_dict({"weight": head.weight.detach().bfloat16() * 0.1})
    low_head.requires_grad_(not frozen)
    exact_head = torch.nn.Linear(64, 211, bias=False, dtype=torch.float64)
    exact_head.load_state_dict({"weight": low_head.weight.detach().double()})

    def gradient(function, head, hidden):
        leaf = hidden.clone().requires_grad_()
        (grad,) = torch.autograd.grad(function(leaf, head, labels_BT), leaf)
        return grad.double()

    def plain_float32(hidden, head, labels):
        return plain(hidden, lambda x: head(x).float(), labels)

    exact = gradient(plain, exact_head, low_BTD.double())
    ours = (gradient(labelled_loss, low_head, low_BTD) - exact).abs().max()
    theirs = (gradient(plain_float32, low_head, low_BTD) - exact).abs().max()
    assert ours <= theirs + 1e-3
    assert labelled_loss(low_BTD, low_head, labels_BT).dtype == torch.float32


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_a_linear_head_keeps_no_logits_for_the_backward(frozen: bool) -> None:
    """What is kept is as large as the hidden states of the labelled rows, or is the weight itself; no logits."""
    hidden_BTD, head, labels_BT = example(2, 65, 16, 1009, share=0.8)
    head.requires_grad_(not frozen)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(0 if x is head.weight else x.numel()) or x, lambda x: x
    ):
        labelled_loss(hidden_BTD, head, labels_BT)
    assert kept and max(kept) <= hidden_BTD.numel()
