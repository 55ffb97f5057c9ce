"""Every method against its formula written again in plain Python numbers, and its gradient against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from whet.train.preference.answers import Answers
from whet.train.preference.dpo import Dpo
from whet.train.preference.kto import Kto, divergence
from whet.train.preference.orpo import Orpo
from whet.train.preference.simpo import Simpo

Numbers = tuple[float, float, int, float, float, int]  # logp, reference, tokens of chosen; the same of rejected


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dpo_d(n: Numbers) -> float:
    return (n[0] - n[1]) - (n[3] - n[4])


def mean_d(n: Numbers) -> float:
    return (n[0] - n[1]) / n[2] - (n[3] - n[4]) / n[5]


def odds(logp: float, tokens: int) -> float:
    p = math.exp(logp / tokens)
    return p / (1 - p)


CASES: list[tuple[Any, Callable[[Numbers], float]]] = [
    (Dpo(0.3), lambda n: -math.log(sigma(0.3 * dpo_d(n)))),
    (
        Dpo(0.3, label_smoothing=0.1),
        lambda n: -0.9 * math.log(sigma(0.3 * dpo_d(n))) - 0.1 * math.log(sigma(-0.3 * dpo_d(n))),
    ),
    (
        Dpo(0.3, "robust", 0.2),
        lambda n: (-0.8 * math.log(sigma(0.3 * dpo_d(n))) + 0.2 * math.log(sigma(-0.3 * dpo_d(n)))) / 0.6,
    ),
    (Dpo(0.3, "hinge"), lambda n: max(0.0, 1 - 0.3 * dpo_d(n))),
    (Dpo(0.3, "ipo"), lambda n: (mean_d(n) - 1 / 0.6) ** 2),
    (Dpo(5.0, "sigmoid_norm"), lambda n: -math.log(sigma(5.0 * mean_d(n)))),
    (Dpo(0.3, nll_weight=0.7), lambda n: -math.log(sigma(0.3 * dpo_d(n))) - 0.7 * n[0] / n[2]),
    (Orpo(0.4), lambda n: -n[0] / n[2] - 0.4 * math.log(sigma(math.log(odds(n[0], n[2]) / odds(n[3], n[5]))))),
    (Simpo(2.0, 0.5), lambda n: -math.log(sigma(2 * (n[0] / n[2] - n[3] / n[5]) - 0.5))),
    (Simpo(2.0, 0.5, 0.3), lambda n: -math.log(sigma(2 * (n[0] / n[2] - n[3] / n[5]) - 0.5)) - 0.3 * n[0] / n[2]),
]


def draw(pairs: int = 7) -> list[Numbers]:
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    values = -30 * torch.rand(pairs, 4, generator=generator, dtype=torch.float64) - 0.5
    sizes = torch.randint(1, 20, (pairs, 2), generator=generator)
    return [
        (v[0].item(), v[1].item(), int(s[0]), v[2].item(), v[3].item(), int(s[1]))
        for v, s in zip(values, sizes, strict=True)
    ]


def sides(numbers: list[Numbers], reference: bool = True) -> tuple[Answers, Answers]:
    table = torch.tensor(numbers, dtype=torch.float64)
    return tuple(  # type: ignore[return-value]
        Answers(table[:, at].clone().requires_grad_(), table[:, at + 2], table[:, at + 1] if reference else None)
        for at in (0, 3)
    )


@pytest.mark.parametrize(("method", "formula"), CASES, ids=lambda value: str(value) if hasattr(value, "beta") else "")
def test_loss_is_the_formula(method: Any, formula: Callable[[Numbers], float]) -> None:
    numbers = draw()
    found = method(*sides(numbers)).loss_P
    expected = torch.tensor([formula(n) for n in numbers], dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("method", "formula"), CASES, ids=lambda value: str(value) if hasattr(value, "beta") else "")
def test_gradient_is_the_formulas_difference(method: Any, formula: Callable[[Numbers], float]) -> None:
    numbers = draw()
    chosen, rejected = sides(numbers)
    method(chosen, rejected).loss_P.sum().backward()
    step = 1e-6
    for i, n in enumerate(numbers):
        for place, side in ((0, chosen), (3, rejected)):
            up, down = (list(n) for _ in range(2))
            up[place], down[place] = n[place] + step, n[place] - step
            slope = (formula(tuple(up)) - formula(tuple(down))) / (2 * step)  # type: ignore[arg-type]
            assert side.logp_P.grad is not None
            assert side.logp_P.grad[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("loss", ["sigmoid", "robust"])
def test_policy_equal_to_the_reference_gives_ln_2(loss: Any) -> None:
    chosen, rejected = sides(draw())
    same = [Answers(side.logp_P.float(), side.tokens_P.float(), side.logp_P.float().detach()) for side in sides(draw())]
    found = Dpo(0.1, loss, 0.1 if loss == "robust" else 0.0)(*same)
    assert (found.loss_P - math.log(2)).abs().max() < 1e-6
    assert (found.figures["rewards/margins"] == 0).all()
    assert chosen.logp_P.dtype == rejected.logp_P.dtype == torch.float64


def test_figures_of_pairs() -> None:
    numbers = draw()
    figures = Dpo(0.3)(*sides(numbers)).figures
    for i, n in enumerate(numbers):
        assert figures["rewards/chosen"][i].item() == pytest.approx(0.3 * (n[0] - n[1]))
        assert figures["rewards/margins"][i].item() == pytest.approx(0.3 * dpo_d(n))
        assert figures["rewards/accuracies"][i].item() == float(dpo_d(n) > 0)
        assert figures["logps/accuracies"][i].item() == float(n[0] / n[2] > n[3] / n[5])


def test_without_a_reference() -> None:
    pair = sides(draw(), reference=False)
    assert torch.isfinite(Orpo()(*pair).loss_P).all() and torch.isfinite(Simpo()(*pair).loss_P).all()
    with pytest.raises(ValueError, match="reference"):
        Dpo()(*pair)


def test_odds_of_certain_answers_stay_finite() -> None:
    sure = Answers(torch.zeros(1, requires_grad=True), torch.ones(1))
    unsure = Answers(torch.full((1,), -400.0), torch.ones(1))
    found = Orpo()(sure, unsure)
    found.loss_P.sum().backward()
    assert torch.isfinite(found.loss_P).all() and torch.isfinite(sure.logp_P.grad).all()  # type: ignore[arg-type]


def test_kto() -> None:
    numbers = draw(6)
    answers, _ = sides(numbers)
    good = torch.tensor([True, False, True, True, False, False])
    z = 0.7
    found = Kto(0.2, 1.5, 0.8)(answers, good, torch.tensor(z, dtype=torch.float64))
    for i, n in enumerate(numbers):
        r = n[0] - n[1]
        expected = 1.5 * (1 - sigma(0.2 * (r - z))) if good[i] else 0.8 * (1 - sigma(0.2 * (z - r)))
        assert found.loss_P[i].item() == pytest.approx(expected, rel=1e-10)
    assert len(found.figures["rewards/chosen"]) == 3 and len(found.figures["rewards/rejected"]) == 3
    found.loss_P.sum().backward()
    assert answers.logp_P.grad is not None
    assert ((answers.logp_P.grad < 0) == good).all()  # good answers are made more likely, bad ones less


def test_divergence_is_never_negative() -> None:
    assert divergence(torch.tensor([1.0, 2.0])).item() == 1.5
    assert divergence(torch.tensor([-1.0, -2.0])).item() == 0
    assert divergence(torch.tensor([])).item() == 0
