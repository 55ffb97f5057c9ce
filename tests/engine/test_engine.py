"""The engine against plain float64 autograd, on every family: loss, and the gradient of every adapter."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, lora_model, packed
from reference import reference_loss

from whet.engine.forward import Engine
from whet.engine.spec import Unsupported

LENGTHS = (7, 1, 13, 4)
IGNORE = -100


def batch_of(lengths=LENGTHS, seed=0):
    ids, positions = packed(lengths, seed)
    labels = ids.clone()
    labels[:, ::3] = IGNORE
    labels[positions == 0] = IGNORE
    return ids, positions, labels


def engine_of(model, policy="none") -> Engine:
    engine = Engine.attach(model, policy)
    assert not isinstance(engine, Unsupported), engine
    return engine


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same_as_the_reference(model) -> set[str]:
    """Loss and gradients under every policy; the names of what has a gradient."""
    batch = batch_of()
    engine = engine_of(model)
    wanted_loss = reference_loss(engine.spec, *batch)
    wanted = gradients(model, wanted_loss)
    for policy in ("none", "mlp", "full"):
        engine.policies = [policy] * len(engine.layers)
        loss = engine.loss_sum(*batch)
        found = gradients(model, loss)
        assert abs(loss - wanted_loss) <= 1e-12 * abs(wanted_loss)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            error = (found[name] - gradient).norm() / gradient.norm()
            assert error <= 1e-12, (policy, name, float(error))
    return set(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_reference(family):
    assert len(same_as_the_reference(lora_model(family))) > 10


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_s_own_forward_agrees(family):
    """Stock norms, rotation and loss run in float32."""
    model = lora_model(family)
    ids, _, labels = batch_of((23,))
    positions = torch.arange(23)[None]
    found = gradients(model, engine_of(model).loss_sum(ids, positions, labels))
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].double(), labels[0, 1:], reduction="sum")
    wanted = gradients(model, loss)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 2e-6 * gradient.norm(), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tile", [1, 4, 9])
def test_tiles_of_the_mlp_change_nothing(family, tile):
    """25 tokens, some without a label: the last tile is not full, and the last layer has fewer rows."""
    model = lora_model(family)
    batch = batch_of()
    engine = engine_of(model)
    wanted = gradients(model, engine.loss_sum(*batch))
    engine.tile = tile
    for policies in (["mlp"], ["full"], ["none", "full", "mlp"]):
        engine.policies = (policies * len(engine.layers))[: len(engine.layers)]
        for name, gradient in gradients(model, engine.loss_sum(*batch)).items():
            assert (gradient - wanted[name]).norm() <= 1e-12 * wanted[name].norm(), (policies, name)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_equal_tiles_give_equal_bits(family):
    model = lora_model(family, torch.float32)
    engine = engine_of(model, "mlp")
    engine.tile = 8
    batch = batch_of()
    wanted = gradients(model, engine.loss_sum(*batch))
    engine.policies = ["full"] * len(engine.layers)
    for name, gradient in gradients(model, engine.loss_sum(*batch)).items():
        assert torch.equal(gradient, wanted[name]), name


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_policies_are_bit_identical(family):
    model = lora_model(family, torch.float32)
    engine = engine_of(model)
    batch = batch_of()
    plain = gradients(model, engine.loss_sum(*batch))
    for policies in (["mlp"], ["full"], ["none", "full"], ["full", "mlp"]):
        engine.policies = (policies * len(engine.layers))[: len(engine.layers)]
        for name, gradient in gradients(model, engine.loss_sum(*batch)).items():
            assert torch.equal(gradient, plain[name]), (policies, name)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_documents_do_not_see_each_other(family):
    model = lora_model(family)
    engine = engine_of(model)
    ids, positions, _ = batch_of()
    other = ids.clone()
    other[0, 8:21] = (other[0, 8:21] + 5) % 90  # the third document
    with torch.no_grad():
        one, two = engine.hidden(ids, positions), engine.hidden(other, positions)
    assert torch.equal(one[:8], two[:8]) and torch.equal(one[21:], two[21:])
    assert not torch.equal(one[8:21], two[8:21])


def test_two_rows_are_as_two_batches():
    model = lora_model("llama")
    engine = engine_of(model)
    first, second = batch_of((9, 5)), batch_of((3, 11), seed=4)
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    alone = engine.loss_sum(*first) + engine.loss_sum(*second)
    assert abs(engine.loss_sum(*both) - alone) <= 1e-12 * abs(alone)


def test_changed_adapters_are_taken_over():
    model = lora_model("qwen2")
    engine = engine_of(model)
    batch = batch_of()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        engine.loss_sum(*batch).backward()
        optimizer.step()
    assert abs(engine.loss_sum(*batch) - reference_loss(engine.spec, *batch)) < 1e-10


def test_a_row_without_labels_costs_nothing():
    model = lora_model("llama")
    ids, positions, labels = batch_of()
    loss = engine_of(model).loss_sum(ids, positions, torch.full_like(labels, IGNORE))
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients(model, loss).values())


def test_the_model_still_works_on_its_own():
    """Weights may become views of the engine's buffers: forward, saving and loading go on."""
    model = lora_model("llama")
    ids, _, labels = batch_of((23,))
    before = model(input_ids=ids, use_cache=False).logits
    state = {name: value.clone() for name, value in model.state_dict().items()}
    engine = engine_of(model)
    engine.loss_sum(ids, torch.arange(23)[None], labels).backward()
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_second_backward_is_refused():
    model = lora_model("llama")
    loss = engine_of(model).loss_sum(*batch_of())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()
