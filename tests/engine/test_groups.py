"""A projection group against autograd over the same modules."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from whet.engine import storage
from whet.engine.kernels.nf4 import dequantise_nf4
from whet.engine.lora import base_of
from whet.engine.quantised import quantise_nf4
from whet.engine.weights import Group, Refresh

T, K, WIDTHS = 11, 14, {"q": 12, "k": 6, "v": 10}


def projections(
    ranks: dict[str, int], bias: tuple[str, ...] = (), dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Any]:
    """q, k and v, with adapters of these ranks where named; B is random too."""
    torch.manual_seed(seed)
    linears = {name: torch.nn.Linear(K, width, bias=name in bias) for name, width in WIDTHS.items()}
    model: Any = torch.nn.ModuleDict(linears)
    if ranks:
        alphas = {"v": 5} if "v" in ranks else {}
        config = LoraConfig(r=1, lora_alpha=3, target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=alphas)
        model = get_peft_model(model, config).base_model.model
    model.to(dtype)
    for name, parameter in model.named_parameters():
        parameter.data.normal_()
        parameter.requires_grad_("lora" in name)
    return [model[name] for name in WIDTHS]


def poisoned(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.full((rows, columns), float("nan"), dtype=dtype)


def wider(values: torch.Tensor, columns: int) -> torch.Tensor:
    """The values, with poisoned columns to the right, inside wider rows still."""
    rows = poisoned(len(values), values.shape[1] + columns + 3, values.dtype)[:, : values.shape[1] + columns]
    rows[:, : values.shape[1]] = values
    return rows


def expected(modules: list[Any], x: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list]:
    x = x.clone().requires_grad_()
    y = torch.cat([module(x) for module in modules], 1)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    grads = torch.autograd.grad(y, [x, *parameters], dy)
    return y.detach(), grads[0], list(grads[1:])


CASES: list[tuple[dict[str, int], tuple[str, ...]]] = [
    ({"q": 4, "k": 4, "v": 4}, ()),
    ({"q": 3, "k": 1, "v": 5}, ("q", "k", "v")),
    ({"q": 8, "v": 2}, ("k",)),
    ({}, ("q",)),
]


@pytest.mark.parametrize(("ranks", "bias"), CASES)
def test_a_group_is_its_modules(ranks, bias):
    modules = projections(ranks, bias)
    x, dy = torch.randn(T, K, dtype=torch.float64), torch.randn(T, sum(WIDTHS.values()), dtype=torch.float64)
    y_want, dx_want, grads_want = expected(modules, x, dy)
    group = Group(modules, torch.float64)
    assert (group.N, group.K, group.R, group.widths) == (28, K, -(-sum(ranks.values()) // 8) * 8, (12, 6, 10))

    xa, dya = wider(x, group.R), wider(dy, group.R)
    torch.testing.assert_close(group.forward(xa), y_want)
    p = xa[:, K:].clone()
    torch.testing.assert_close(group.dgrad(dya), dx_want)
    grads = group.wgrad(dya, x, p)
    assert [g.shape for g in grads] == [parameter.shape for parameter in group.parameters]
    assert all(g.dtype == torch.float64 for g in grads)
    for got, want in zip(grads, grads_want, strict=True):
        torch.testing.assert_close(got, want)
    if group.R:
        torch.testing.assert_close(group.project(x, poisoned(T, group.R)), p)


def test_results_go_where_they_are_wanted():
    group = Group(projections({"q": 2, "k": 2, "v": 2}, ("q", "k")), torch.float64)
    xa, residual = wider(torch.randn(T, K, dtype=torch.float64), group.R), torch.randn(T, 28, dtype=torch.float64)
    plain = group.forward(xa)
    out = poisoned(T, 40)
    assert group.forward(xa, out=out[:, 4:32]).data_ptr() == out[:, 4:].data_ptr()
    torch.testing.assert_close(out[:, 4:32], plain, rtol=0, atol=0)
    assert out[:, :4].isnan().all() and out[:, 32:].isnan().all()
    torch.testing.assert_close(group.forward(xa, add=residual), plain + residual)
    torch.testing.assert_close(group.forward(xa, add=residual, out=out[:, 4:32]), plain + residual)
    in_place = residual.clone()
    torch.testing.assert_close(group.forward(xa, add=in_place, out=in_place), plain + residual)
    dya = wider(torch.randn(T, 28, dtype=torch.float64), group.R)
    into = poisoned(T, K + 5)[:, :K]
    torch.testing.assert_close(group.dgrad(dya, out=into), group.dgrad(dya))


def test_refresh_follows_the_optimizer():
    modules = projections({"q": 2, "v": 3})
    group = Group(modules, torch.float64)
    x = torch.randn(T, K, dtype=torch.float64)
    with torch.no_grad():
        for parameter in group.parameters:
            parameter.add_(1)
    stale = group.forward(wider(x, group.R))
    group.refresh()
    y = group.forward(wider(x, group.R))
    torch.testing.assert_close(y, torch.cat([module(x) for module in modules], 1).detach())
    assert (stale - y).abs().max() > 0.1


def test_many_groups_are_refreshed_together():
    """Parameters that an optimizer has moved into a flat buffer are followed."""
    layers = [projections({"q": 2, "v": 3}, seed=seed) for seed in range(3)]
    groups = [Group(modules, torch.float64) for modules in layers]
    refresh = Refresh(groups)
    for group in groups:
        for parameter in group.parameters:
            parameter.data = torch.randn(parameter.numel() + 1, dtype=torch.float64)[1:].view(parameter.shape)
    refresh.run()
    x = torch.randn(T, K, dtype=torch.float64)
    for group, modules in zip(groups, layers, strict=True):
        want = torch.cat([module(x) for module in modules], 1).detach()
        torch.testing.assert_close(group.forward(wider(x, group.R)), want)


def test_weights_are_held_once_and_given_back():
    modules = projections({"q": 2, "k": 2, "v": 2})
    before = [base_of(module).weight.clone() for module in modules]
    group = Group(modules, torch.float64)
    buffer = group.storage.buffer
    for module, weight in zip(modules, before, strict=True):
        held = base_of(module).weight
        assert held.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        torch.testing.assert_close(held, weight, rtol=0, atol=0)
    assert group.bytes() == {"buffer": (28 + 8) * (K + 8) * 8, "twice": 0, "bias": 0}
    group.release()
    for module, weight in zip(modules, before, strict=True):
        held = base_of(module).weight
        assert held.is_contiguous() and held.untyped_storage().nbytes() == weight.numel() * 8
        torch.testing.assert_close(held, weight, rtol=0, atol=0)


def test_weights_of_another_dtype_are_left_alone():
    modules = projections({"q": 2})
    weight = base_of(modules[0]).weight
    place = weight.data_ptr()
    group = Group(modules, torch.float32)
    assert weight.dtype == torch.float64 and weight.data_ptr() == place
    assert group.bytes()["twice"] == 28 * K * 8
    group.release()
    assert weight.data_ptr() == place


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_dtypes_stay_near_float64(dtype):
    modules = projections({"q": 4, "k": 2, "v": 4}, dtype=torch.float32)
    exact = projections({"q": 4, "k": 2, "v": 4}, dtype=torch.float32)
    for module in [*modules, *exact]:
        base_of(module).weight.data = base_of(module).weight.data.bfloat16().float()
    for module in exact:
        module.to(torch.float64)
    x, dy = torch.randn(T, K).bfloat16(), torch.randn(T, 28).bfloat16()
    y_want, dx_want, grads_want = expected(exact, x.double(), dy.double())
    group = Group(modules, dtype)
    xa, dya = wider(x.to(dtype), group.R), wider(dy.to(dtype), group.R)
    y = group.forward(xa)
    p, dx = xa[:, K:].clone(), group.dgrad(dya)
    grads = group.wgrad(dya, x.to(dtype), p)
    assert all(g.dtype == torch.float32 for g in grads)
    bound = 2e-2 if dtype == torch.bfloat16 else 1e-6
    for got, want in zip([y, dx, *grads], [y_want, dx_want, *grads_want], strict=True):
        assert (got.double() - want).norm() / want.norm() < bound


# ----------------------------------------------------------------------------------------------------------- NF4


class FourBit(torch.nn.Module):
    """A linear layer as bitsandbytes keeps it: packed bytes, and their state on the parameter."""

    def __init__(self, outputs: int, inputs: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.in_features, self.out_features, self.bias = inputs, outputs, None
        nf4 = quantise_nf4(torch.randn(outputs, inputs))
        self.weight = torch.nn.Parameter(nf4.packed[:, None].clone(), requires_grad=False)
        self.weight.quant_state = SimpleNamespace(
            quant_type="nf4", absmax=nf4.absmax, shape=nf4.shape, dtype=nf4.dtype, blocksize=nf4.block, state2=None
        )
        self.dense = torch.empty(outputs, inputs)
        dequantise_nf4(nf4, self.dense)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each dequantised weight."""
    calls: list[int] = []

    def dequantise(weight: Any, out: torch.Tensor) -> None:
        calls.append(weight.shape[0])
        dequantise_nf4(weight, out)

    monkeypatch.setattr(storage, "dequantise_nf4", dequantise)
    return calls


def test_groups_of_one_shape_share_a_buffer(counted):
    layers = [[FourBit(12, 64, seed), FourBit(6, 64, seed + 10)] for seed in range(2)]
    shared: dict[Any, Any] = {}
    first, second = (Group(modules, torch.float32, "nf4", shared) for modules in layers)
    assert first.storage.buffer is second.storage.buffer and len(shared) == 1
    x, dy = torch.randn(T, 64), torch.randn(T, 18)
    for _ in range(2):
        for group, modules in zip((first, second), layers, strict=True):
            dense = torch.cat([module.dense for module in modules])
            torch.testing.assert_close(group.forward(x), x @ dense.t())
            torch.testing.assert_close(group.dgrad(dy), dy @ dense)
    assert counted == [12, 6] * 4, "once for forward and gradient together, again after the other group"
    assert first.bytes() == {"shared": 18 * 64 * 4, "operands": 0, "packed": 18 * 64 // 2 + 18 * 4, "bias": 0}


def test_a_resident_group_dequantises_once(counted):
    shared: dict[Any, Any] = {}
    groups = [Group([FourBit(12, 64, seed)], torch.float32, "nf4", shared, resident=seed == 0) for seed in range(3)]
    x = torch.randn(T, 64)
    for _ in range(2):
        for group in groups:
            group.forward(x)
    assert len(counted) == 1 + 2 * 2 and len(shared) == 1
    assert groups[0].bytes()["buffer"] == 12 * 64 * 4


@pytest.mark.parametrize("resident", [False, True])
def test_adapters_over_four_bit_weights(counted, resident):
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["q"])
    model = get_peft_model(torch.nn.ModuleDict({"q": torch.nn.Linear(64, 12, bias=False)}), config)
    module = model.base_model.model["q"]
    module.base_layer = four_bit = FourBit(12, 64, 5)
    torch.nn.init.normal_(module.lora_B["default"].weight)
    group = Group([module], torch.float32, "nf4", {}, resident=resident)
    a, b = group.parameters
    x = torch.randn(T, 64)
    for _ in range(2):
        want = x @ (four_bit.dense + 2 * b @ a).t()
        torch.testing.assert_close(group.forward(wider(x, group.R)), want.detach())
        with torch.no_grad():
            b.mul_(-3)
        group.refresh()
    assert len(counted) == 1, "new adapters are copied without dequantising again"


def test_what_a_group_refuses():
    with pytest.raises(ValueError, match="different width"):
        Group([torch.nn.Linear(3, 4), torch.nn.Linear(5, 4)], torch.float32)
    with pytest.raises(ValueError, match="4-bit"):
        Group([torch.nn.Linear(64, 4)], torch.float32, "nf4", {})
    with pytest.raises(ValueError, match="quantised"):
        Group([FourBit(12, 64, 0)], torch.float32)
