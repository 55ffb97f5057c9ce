"""The engine's rounding beside that of transformers + PEFT, and what must be equal bit by bit.

``gpu`` variants run the same tests on a card.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import FAMILIES, lora_model, packed
from reference import IGNORE, reference_loss

from whet.engine.forward import Engine
from whet.engine.layer import POLICIES
from whet.engine.loss import token_logprobs
from whet.engine.read import read_model
from whet.engine.spec import ModelSpec, Unsupported

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LENGTHS = (9, 1, 14, 7)
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Gradients = dict[str, torch.Tensor]


def batch_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0, device: str = "cpu") -> Batch:
    ids_1T, positions_1T = packed(lengths, seed)
    labels_1T = torch.where(torch.arange(ids_1T.shape[1]) % 3 == 0, IGNORE, ids_1T)
    labels_1T[positions_1T == 0] = IGNORE
    return ids_1T.to(device), positions_1T.to(device), labels_1T.to(device)


def engine_of(model: Any, policy: Any = "none") -> Engine:
    engine = Engine.attach(model, policy)
    assert not isinstance(engine, Unsupported), engine
    return engine


def gradients(model: Any, loss: torch.Tensor) -> Gradients:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def own_loss(model: Any, batch: Batch) -> torch.Tensor:
    """By the model's own forward; logits in float32, or float64 where they are."""
    ids_BS, positions_BS, labels_BS = batch
    logits = model(input_ids=ids_BS, position_ids=positions_BS, attention_mask=None, use_cache=False).logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    targets = labels_BS[:, 1:].flatten()
    return F.cross_entropy(wide[:, :-1].flatten(0, 1), targets, ignore_index=IGNORE, reduction="sum")


def errors(found: Gradients, exact: Gradients) -> list[float]:
    """Relative error of each parameter's gradient."""
    assert found.keys() == exact.keys()
    return [float((found[name].double() - value).norm() / value.norm()) for name, value in exact.items()]


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(on, warn_only=True)  # cuBLAS asks for an environment variable otherwise
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("lengths", [(23,), LENGTHS], ids=["one", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_transformers_and_peft(family: str, lengths: tuple[int, ...]) -> None:
    """In float64, in which stock models still round norms and rotation to float32. Gemma's have twice the norms."""
    model = lora_model(family)
    batch = batch_of(lengths)
    wanted = gradients(model, own_loss(model, batch))
    found = errors(gradients(model, engine_of(model).loss_sum(*batch)), wanted)
    assert statistics.median(found) <= 1e-6
    assert max(found) <= (2e-6 if family.startswith("gemma") else 1e-6)


# ------------------------------------------------------------------------------------------------------- bfloat16


def mixed(model: Any) -> Any:
    """bfloat16 weights under float32 adapters."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if "lora_" in name else torch.bfloat16)
    for buffer in model.buffers():
        buffer.data = buffer.data.float()
    return model


def exact_gradients(model: Any, batch: Batch) -> Gradients:
    """From the same numbers in float64."""
    twin = copy.deepcopy(model).double()
    spec = read_model(twin)
    assert isinstance(spec, ModelSpec), spec
    return gradients(twin, reference_loss(spec, *batch))


def both_errors(model: Any, batch: Batch, device: str) -> tuple[list[float], list[float]]:
    """Of the engine, and of the model's own forward under autocast."""
    exact = exact_gradients(model, batch)
    model.to(device)
    there: Batch = tuple(tensor.to(device) for tensor in batch)  # type: ignore[assignment]
    with torch.autocast(device, torch.bfloat16):
        plain = gradients(model, own_loss(model, there))
    ours = gradients(model, engine_of(model).loss_sum(*there))
    return tuple(errors({n: g.cpu() for n, g in found.items()}, exact) for found in (ours, plain))  # type: ignore[return-value]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3"])
def test_bfloat16_gradients_are_no_worse_than_those_of_peft(family: str, device: str) -> None:
    """Median and largest over the parameters; over several models, since one tiny model is a matter of luck."""
    ours, plain = [], []
    for seed in range(12):
        model = mixed(lora_model(family, torch.float32, seed))
        for found, total in zip(both_errors(model, batch_of(seed=seed), device), (ours, plain), strict=True):
            total.append(found)
    for of in (statistics.median, max):
        assert statistics.mean(map(of, ours)) <= 1.1 * statistics.mean(map(of, plain))


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_gradients_of_the_starter(device: str) -> None:
    from whet.models.adapters import add_lora
    from whet.models.load import load_model

    model = add_lora(load_model("starter", dtype=torch.float32)[0].cpu().float(), rank=16, alpha=32).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
    ids_1T = torch.randint(10, 4000, (1, 160), generator=generator)
    positions_1T = torch.cat([torch.arange(n) for n in (70, 1, 50, 39)])[None]
    labels_1T = torch.where(positions_1T == 0, IGNORE, ids_1T)
    ours, plain = both_errors(mixed(model), (ids_1T, positions_1T, labels_1T), device)
    assert statistics.median(ours) <= 1.1 * statistics.median(plain)
    assert max(ours) <= 1.1 * max(plain)


# --------------------------------------------------------------------------------------------------- bit by bit


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("nf4", [False, True], ids=["dense", "nf4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama_biases", "qwen3", "gemma3", "phi3"])
def test_policies_are_equal_bit_by_bit(family: str, dtype: torch.dtype, nf4: bool, device: str) -> None:
    model = lora_model(family, dtype, nf4=nf4).to(device)
    if nf4 and device == "cuda":
        pytest.skip("these four-bit layers keep their absmax where they were made")
    engine, batch = engine_of(model), batch_of(device=device)
    with deterministic(device == "cuda"):
        loss = engine.loss_sum(*batch)
        plain = gradients(model, loss)
        for policies in (["mlp"], ["full"], ["none", "full", "mlp"]):
            engine.policies = (policies * len(engine.layers))[: len(engine.layers)]
            again = engine.loss_sum(*batch)
            assert torch.equal(again, loss)
            assert all(torch.equal(g, plain[name]) for name, g in gradients(model, again).items()), policies


def losses_and_input_gradient(engine: Engine, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each token (T), and the gradient of their weighted sum for the embedded tokens (T, D)."""
    ids_1T, positions_1T, _ = batch
    embedded: list[torch.Tensor] = []

    def seen(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    handle = engine.spec.embed.register_forward_hook(seen)
    try:
        hidden_TD = engine.hidden(ids_1T, positions_1T)
    finally:
        handle.remove()
    loss_T = -token_logprobs(hidden_TD, engine.spec.head.weight, ids_1T[0].roll(-1))
    within_T = torch.cat([positions_1T[0, 1:] != 0, positions_1T.new_zeros(1, dtype=torch.bool)])
    (grad_1TD,) = torch.autograd.grad((loss_T * within_T).sum(), embedded)
    return (loss_T * within_T).detach(), grad_1TD[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "phi3_partial"])
def test_a_changed_document_changes_no_other(family: str, dtype: torch.dtype, policy: Any, device: str) -> None:
    """Losses of the other documents' tokens, and what flows back into their inputs."""
    engine = engine_of(lora_model(family, dtype).to(device), policy)
    ids_1T, positions_1T, labels_1T = batch_of(device=device)
    start, stop = LENGTHS[0] + LENGTHS[1], sum(LENGTHS[:3])
    other_1T = ids_1T.clone()
    other_1T[0, start:stop] = (other_1T[0, start:stop] + 5) % 90 + 3
    with deterministic(device == "cuda"):
        before = losses_and_input_gradient(engine, (ids_1T, positions_1T, labels_1T))
        after = losses_and_input_gradient(engine, (other_1T, positions_1T, labels_1T))
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one[:start], two[:start]) and torch.equal(one[stop:], two[stop:])
        assert not torch.equal(one[start:stop], two[start:stop])
    assert before[0][: start - 2].all() and before[1][:start].any()
