"""float32 masters of bfloat16 weights: the bits, the update, and what a checkpoint brings back."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

import whet.train.masters as masters_module
from whet import console
from whet.errors import TrainingError
from whet.train.master_kernel import KernelAdamW
from whet.train.masters import MasterOptimizer, join, round_at_random, split_

AdamW = partial(torch.optim.AdamW, lr=1e-3, fused=True)
SHAPES = ((300, 7), (5,), (64, 33))


@pytest.fixture(autouse=True)
def _small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some parameters in several stretches, some stretches of several parameters."""
    monkeypatch.setattr(masters_module, "BUCKET", 512)
    console.forget_notices()


def both(dtype: torch.dtype = torch.bfloat16) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The same values in ``dtype`` and in float32."""
    narrow = [torch.nn.Parameter((0.02 * torch.randn(shape)).to(dtype)) for shape in SHAPES]
    return narrow, [torch.nn.Parameter(p.detach().float().clone()) for p in narrow]


def groups(parameters: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:], "weight_decay": 0.0}]


def give_gradients(narrow: list[torch.nn.Parameter], wide: list[torch.nn.Parameter]) -> None:
    for one, other in zip(narrow, wide, strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.to(other.dtype, copy=True)


def run(optimizer: MasterOptimizer, parameters: list[torch.nn.Parameter], steps: int) -> None:
    for _ in range(steps):
        give_gradients(parameters, parameters)
        optimizer.step()


def master_bits(optimizer: MasterOptimizer, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [optimizer.masters_of(p).view(torch.int32) for p in parameters]


def test_a_master_comes_back_bit_for_bit() -> None:
    """Any bits of finite numbers and infinities, but for ties rounded towards zero: one unit of float32 off."""
    bits = torch.randint(-(2**31), 2**31 - 1, (100_000,), dtype=torch.int32)
    bits[:3] = torch.tensor([0x3F808000, 0x3F818000, 0x7F7FFFFF])  # two ties, and one that rounds to infinity
    given = bits.view(torch.float32)
    given = torch.cat([given[given.isfinite()], torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-45])])
    weights, low = torch.full_like(given, float("nan"), dtype=torch.bfloat16), given.to(torch.int16)
    split_(given, weights, low)
    assert torch.equal(weights, given.bfloat16())
    off = given.view(torch.int32) - join(weights, low).view(torch.int32)
    tie = (given.view(torch.int32) & 0x1FFFF) == 0x8000  # halfway, the weight below is even
    assert tie[0] and torch.equal(off, tie.to(torch.int32))
    assert torch.equal(join(weights, low).bfloat16(), weights)


def test_what_is_no_number_stays_none() -> None:
    given = torch.tensor([0x7FFFFFFF, -1, 0x7FC00000], dtype=torch.int32).view(torch.float32)
    weights, low = torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.int16)
    split_(given, weights, low)
    assert weights.isnan().all() and join(weights, low).isnan().all()


@pytest.fixture(params=["library", "kernel"])
def updates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch, or as with the kernel, in whose place its plain twin computes."""
    if request.param == "kernel":
        monkeypatch.setattr(masters_module, "uses_triton", lambda _: True)


@pytest.mark.usefixtures("updates")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("max_norm", [None, 1.0, 1e9])
def test_masters_move_as_float32_weights_do(dtype: torch.dtype, max_norm: float | None) -> None:
    """Groups, a schedule, clipping, a parameter without a gradient."""
    narrow, wide = both(dtype)
    mine, plain = MasterOptimizer(groups(narrow), AdamW), AdamW(groups(wide))
    schedules = [LambdaLR(one, lambda step: 1 / (1 + step)) for one in (mine, plain)]
    for number in range(20):
        give_gradients(narrow, wide)
        if number in (3, 4):
            narrow[2].grad = wide[2].grad = None
        if max_norm is not None:
            norm, expected = mine.clip_(max_norm), torch.nn.utils.clip_grad_norm_(wide, max_norm)
            torch.testing.assert_close(norm, expected)
        for one in (mine, plain, *schedules):
            one.step()
        assert mine.param_groups[0]["lr"] == plain.param_groups[0]["lr"] == schedules[0].get_last_lr()[0]
    for one, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(mine.masters_of(one), other.detach(), rtol=1e-6, atol=2e-8)
        assert torch.equal(one, mine.masters_of(one).to(dtype))


def test_without_masters_small_updates_are_lost() -> None:
    narrow, wide = both()
    start = [p.detach().clone() for p in narrow]
    mine, plain = MasterOptimizer(groups(narrow), partial(AdamW, lr=1e-6)), both()[0]
    for one, other in zip(plain, start, strict=True):
        one.data = other.clone()
    without = AdamW(groups(plain), lr=1e-6)
    for _ in range(10):
        give_gradients(narrow, wide)
        for one, other in zip(plain, narrow, strict=True):
            one.grad = other.grad.clone()
        mine.step()
        without.step()
    moved = [(mine.masters_of(p) != s).float().mean() for p, s in zip(narrow, start, strict=True)]
    lost = [(p == s).float().mean() for p, s in zip(plain, start, strict=True)]
    assert min(moved) > 0.99 and lost[0] > 0.9


@pytest.mark.usefixtures("updates")
def test_a_state_goes_on_as_if_nothing_had_been() -> None:
    narrow, _ = both()
    mine = MasterOptimizer(groups(narrow), AdamW)
    run(mine, narrow, 5)
    file = io.BytesIO()
    torch.save({"state": mine.state_dict(), "weights": narrow}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = [torch.nn.Parameter(p.detach().clone()) for p in saved["weights"]]
    again = MasterOptimizer(groups(other), partial(AdamW, lr=7.0))
    again.load_state_dict(saved["state"])
    for optimizer, parameters in ((mine, narrow), (again, other)):
        torch.manual_seed(5)
        run(optimizer, parameters, 5)
    assert all(map(torch.equal, master_bits(mine, narrow), master_bits(again, other)))
    assert all(map(torch.equal, narrow, other))
    assert again.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_state_goes_on_with_the_kernel_and_without(first: bool, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of one, gone on with by the other, and in the same optimizer: all end where torch alone does."""
    make = partial(AdamW, fused=fused)
    narrow, wide = both()
    mine, plain = MasterOptimizer(groups(narrow), make), AdamW(groups(wide), fused=fused)
    for kernel in (first, not first, first):
        monkeypatch.setattr(masters_module, "uses_triton", lambda _, kernel=kernel: kernel)
        for _ in range(3):
            give_gradients(narrow, wide)
            mine.step()
            plain.step()
        other = MasterOptimizer(groups(narrow), make)
        other.load_state_dict(copy.deepcopy(mine.state_dict()))
        steps = [state["step"] for state in other.inner.state_dict()["state"].values()]
        assert steps and set(map(float, steps)) == {float(next(iter(plain.state.values()))["step"])}
        mine = other
    for one, two in zip(narrow, wide, strict=True):
        torch.testing.assert_close(mine.masters_of(one), two.detach(), rtol=1e-6, atol=2e-8)


def test_moments_that_are_made_before_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, other = both()[0], both()[0]
    for one, two in zip(narrow, other, strict=True):
        two.data = one.detach().clone()
    late = MasterOptimizer(groups(narrow), AdamW)
    assert not late.make_state()  # torch makes them itself
    monkeypatch.setattr(masters_module, "uses_triton", lambda _: True)
    early = MasterOptimizer(groups(other), AdamW)
    assert early.make_state() and len(early.inner.state) == sum(map(len, early.pieces.values()))
    for mine, parameters in ((early, other), (late, narrow)):
        torch.manual_seed(3)
        run(mine, parameters, 3)
        assert mine.make_state()
    assert all(map(torch.equal, master_bits(early, other), master_bits(late, narrow)))


def test_the_kernel_is_for_plain_adamw_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masters_module, "uses_triton", lambda _: True)
    monkeypatch.setattr(KernelAdamW, "update", lambda *_: pytest.fail("used"))
    for make in (partial(AdamW, amsgrad=True), partial(torch.optim.SGD, lr=1.0)):
        narrow, _ = both()
        run(MasterOptimizer(groups(narrow), make), narrow, 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_kernel_moves_masters_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(masters_module, "uses_triton", lambda _: False)
        torch.manual_seed(1)
        narrow = [torch.nn.Parameter(p.detach().cuda()) for p in both()[0]]
        mine = MasterOptimizer(groups(narrow), AdamW)
        for _ in range(10):
            give_gradients(narrow, narrow)
            mine.clip_(1.0)
            mine.step()
        ends.append([mine.masters_of(p) for p in narrow])
        assert next(iter(mine.state_dict()["state"]["state"].values()))["step"].item() == 10
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=2e-8)


@pytest.mark.parametrize("kind", ["torch", "other model", "other groups"])
def test_a_state_of_something_else_is_refused(kind: str) -> None:
    narrow, wide = both()
    states: dict[str, Callable[[], Any]] = {
        "torch": lambda: AdamW(groups(wide)).state_dict(),
        "other model": lambda: MasterOptimizer(groups(narrow[1:]), AdamW).state_dict(),
        "other groups": lambda: MasterOptimizer([{"params": narrow}], AdamW).state_dict(),
    }
    with pytest.raises(TrainingError, match="checkpoint"):
        MasterOptimizer(groups(narrow), AdamW).load_state_dict(states[kind]())


def test_float16_is_refused() -> None:
    with pytest.raises(TrainingError, match="float16"):
        MasterOptimizer([{"params": [torch.nn.Parameter(torch.zeros(3, dtype=torch.float16))]}], AdamW)


def test_micro_batches_are_added_in_float32() -> None:
    """Gradients of 1 and of 64 times 1/512: bfloat16 sums would stay at 1."""
    parameter = torch.nn.Parameter(torch.zeros(10, dtype=torch.bfloat16))
    mine = MasterOptimizer([{"params": [parameter]}], AdamW, sum_gradients=True)
    for value in (1.0, *[1 / 512] * 64):
        (parameter * torch.tensor(value, dtype=torch.bfloat16)).sum().backward()
    assert parameter.grad is None
    found = mine.gradient(parameter)
    assert found is not None and found.dtype == torch.float32 and torch.equal(found, torch.full((10,), 1.125))
    mine.zero_grad()
    assert mine.gradient(parameter) is None
    (parameter * 2).sum().backward()
    mine.step()
    assert mine.gradient(parameter) is None and (mine.masters_of(parameter) < 0).all()


def test_one_micro_batch_needs_no_sum() -> None:
    parameter = torch.nn.Parameter(torch.zeros(10, dtype=torch.bfloat16))
    mine = MasterOptimizer([{"params": [parameter]}], AdamW, sum_gradients=True)
    for dtype in (torch.bfloat16, torch.float32):
        (parameter * 2).sum().backward()
        found = mine.gradient(parameter)
        assert found is not None and found.dtype == dtype


def test_a_micro_batch_that_failed_is_added_once() -> None:
    narrow, _ = both()
    mine = MasterOptimizer(groups(narrow), AdamW, sum_gradients=True)
    sums = mine.added
    assert sums is not None
    for value in (1.0, 2.0):
        sums.begin()
        (narrow[0] * value).sum().backward()  # the others' gradients were not reached
        narrow[1].grad = torch.full_like(narrow[1], 7.0)  # made, but not taken over yet
        sums.again()
        sum((p * value).sum() for p in narrow).backward()
        sums.done()
    assert all(torch.equal(found, torch.full(p.shape, 3.0)) for p in narrow if (found := mine.gradient(p)) is not None)
    assert all(mine.gradient(p) is not None for p in narrow)


def test_micro_batches_of_a_pass_that_failed_come_apart() -> None:
    """Three at once fail after one gradient, the first one alone after another: each sum is 1 + 2 + 4 in the end."""
    narrow, _ = both()
    mine = MasterOptimizer(groups(narrow), AdamW, sum_gradients=True)
    sums, values = mine.added, (1.0, 2.0, 4.0)
    assert sums is not None
    sums.begin(3)
    (narrow[0] * sum(values)).sum().backward()
    sums.again()
    sums.begin(1)
    (narrow[1] * values[0]).sum().backward()
    sums.again()
    for value in values:
        sums.begin(1)
        sum((p * value).sum() for p in narrow).backward()
        sums.done()
    found = [mine.gradient(p) for p in narrow]
    assert all(g is not None and torch.equal(g, torch.full_like(g, 7.0)) for g in found)


def test_weights_that_others_change_are_started_from(capsys: pytest.CaptureFixture[str]) -> None:
    narrow, _ = both()
    mine = MasterOptimizer(groups(narrow), partial(AdamW, lr=1e-5))
    run(mine, narrow, 3)
    assert capsys.readouterr().err == ""
    with torch.no_grad():
        narrow[0].fill_(1.0)
    narrow[0].grad = None
    narrow[1].grad = torch.ones_like(narrow[1])
    mine.step()
    assert torch.equal(mine.masters_of(narrow[0]), torch.ones(SHAPES[0]))
    assert "weights were changed" in capsys.readouterr().err


def test_rounding_at_random_is_exact_in_the_mean() -> None:
    step = 2.0**-7  # between bfloat16 numbers from 1 to 2
    given = torch.full((20_000,), 1 + 0.3 * step)
    found = round_at_random(given, torch.Generator().manual_seed(1))
    assert set(found.tolist()) == {1.0, 1 + step}
    assert abs(float(found.double().mean()) - 1 - 0.3 * step) < 0.02 * step
    kept = torch.tensor([1.5, -2.0, 0.0, float("inf"), float("-inf")])
    assert torch.equal(round_at_random(kept).float(), kept)
    assert round_at_random(torch.tensor([-1, 0x7FFFFFFF], dtype=torch.int32).view(torch.float32)).isnan().all()


def test_the_end_of_training_rounds_what_nobody_else_has_set() -> None:
    narrow, _ = both()
    mine = MasterOptimizer(groups(narrow), partial(AdamW, lr=1e-6))
    run(mine, narrow, 3)
    wide = [mine.masters_of(p).clone() for p in narrow]
    with torch.no_grad():
        narrow[2].fill_(0.5)
    mine.finish_(seed=1)
    first = narrow[0].detach().float()
    assert ((first - wide[0]).abs() <= wide[0].abs() * 2**-7).all() and not torch.equal(
        first, wide[0].bfloat16().float()
    )
    assert torch.equal(narrow[2], torch.full(SHAPES[2], 0.5, dtype=torch.bfloat16))
    assert all(torch.equal(mine.masters_of(p), p.float()) for p in narrow)
