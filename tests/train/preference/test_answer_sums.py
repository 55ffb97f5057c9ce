"""Sums over the tokens of each answer."""

from __future__ import annotations

import pytest
import torch

from whet.train.preference.sums import AnswerSums


@pytest.mark.parametrize("tokens", [(5,), (7, 7, 7), (3, 1, 130, 64), (0, 4, 0), (0, 0)], ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_sums_and_their_gradient(tokens: tuple[int, ...], dtype: torch.dtype, bound: float) -> None:
    values_N = torch.randn(sum(tokens), dtype=dtype, requires_grad=True)
    weight_A = torch.randn(len(tokens), dtype=dtype)
    sums = AnswerSums(tokens, "cpu")
    found_A = sums(values_N)
    exact_N = values_N.detach().double().requires_grad_()
    wanted_A = torch.stack([part.sum() for part in exact_N.split(tokens)])
    assert found_A.dtype == dtype and sums.tokens_A.tolist() == list(tokens)
    assert ((found_A - wanted_A).abs() <= bound).all()
    (found_A * weight_A).sum().backward()
    (wanted_A * weight_A).sum().backward()
    assert torch.equal(values_N.grad.double(), exact_N.grad)


def test_an_answer_that_is_no_number_leaves_the_others() -> None:
    values_N = torch.randn(9)
    values_N[3] = float("nan")
    found_A = AnswerSums((3, 2, 4), "cpu")(values_N)
    assert found_A.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("tokens", [(301, 301), (300, 7, 123)], ids=str)
def test_equal_values_give_equal_sums_to_the_bit(tokens: tuple[int, ...]) -> None:
    values_N = torch.randn(sum(tokens))
    assert torch.equal(AnswerSums(tokens, "cpu")(values_N), AnswerSums(tokens, "cpu")(values_N.clone()))
