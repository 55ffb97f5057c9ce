"""Weights that come to the device layer by layer give the same numbers, whatever the order of the layers."""

from __future__ import annotations

import random

import pytest
import torch
from families import FAMILIES, lora_model, plain_model
from reference import reference_loss
from test_engine import batch_of, gradients

from whet.engine.forward import Engine
from whet.engine.page_locked import PageLocked
from whet.engine.read import read_model
from whet.engine.spec import ModelSpec
from whet.engine.streamed import Ring, Streamed
from whet.errors import TrainingError


def engine_of(model, policy: str = "none", streamed: bool = True) -> Engine:
    spec = read_model(model)
    assert isinstance(spec, ModelSpec), spec
    return Engine(spec, policy, streamed=streamed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("policy", ["none", "mlp", "full"])
def test_the_numbers_of_dense_weights(family, policy):
    """In float64 to the last bit: the products are the same. Three passes, so that each ring turns."""
    batch, found = batch_of(), []
    for streamed in (False, True):
        model = lora_model(family)
        engine = engine_of(model, policy, streamed)
        assert all(isinstance(g.storage, Streamed) == streamed for layer in engine.layers for g in layer.groups)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses = []
        for _ in range(3):
            with engine.adapters_off():
                losses.append(float(engine.loss_sum(*batch)))
            loss = engine.loss_sum(*batch)
            losses.append(float(loss))
            grads = gradients(model, loss)
            optimizer.step()
        found.append((losses, grads))
    (dense, wanted), (losses, grads) = found
    assert losses == dense and grads.keys() == wanted.keys()
    assert all(torch.equal(grads[name], wanted[name]) for name in wanted)


def test_the_reference_in_float64():
    model = lora_model("qwen2", seed=3)
    engine, batch = engine_of(model, "full"), batch_of()
    wanted = reference_loss(engine.spec, *batch)
    assert abs(engine.loss_sum(*batch) - wanted) <= 1e-12 * abs(wanted)


def test_weights_are_held_once_and_given_back():
    model = lora_model("llama_biases")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = engine_of(model)
    hosts = {g.storage.host.untyped_storage().data_ptr() for layer in engine.layers for g in layer.groups}
    bases = [p for name, p in model.named_parameters() if "base_layer.weight" in name]
    assert {p.untyped_storage().data_ptr() for p in bases} == hosts
    engine.release()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert len({p.untyped_storage().data_ptr() for p in bases}) == len(bases)


def test_two_buffers_of_each_shape():
    engine = engine_of(lora_model("gemma2"))  # three layers
    rings = list(engine._shared.values())
    assert rings and all(isinstance(ring, Ring) and len(ring.buffers) == 2 for ring in rings)
    assert sum(len(ring.members) for ring in rings) == 4 * len(engine.layers)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_finds_the_right_weights(seed):
    engine = engine_of(lora_model("gemma2"))
    ring = max(engine._shared.values(), key=lambda ring: len(ring.members))
    order = random.Random(seed)
    for _ in range(50):
        member = order.choice(ring.members)
        member.prepare()
        n_rows, n_columns = member.b_NR.shape[0], member.a_RK.shape[1]
        assert torch.equal(member.buffer[:n_rows, :n_columns], member.host[:n_rows, :n_columns])
        assert torch.equal(member.buffer[n_rows:, :n_columns], member.a_RK)
        assert torch.equal(member.buffer[:n_rows, n_columns:], member.b_NR)


def test_layers_in_order_are_foreseen():
    """Forward and backward copy what comes next before it is asked for: only the first layer is a surprise."""
    engine = engine_of(lora_model("gemma2"))
    ring = max(engine._shared.values(), key=lambda ring: len(ring.members))
    surprises = []
    for place in [*range(len(ring.members)), *reversed(range(len(ring.members))), *range(len(ring.members))]:
        surprises.append(place not in ring._owners)
        ring.need(place)
    assert surprises == [True] + [False] * (len(surprises) - 1)


def test_a_copy_that_was_never_queued_is_made_later():
    """As after Ctrl-C in the middle of it."""
    member = engine_of(lora_model("gemma2")).layers[1].qkv.storage
    host, member.host = member.host, None
    with pytest.raises(TypeError):
        member.prepare()
    member.host = host
    member.prepare()
    n_rows, n_columns = member.b_NR.shape[0], member.a_RK.shape[1]
    assert torch.equal(member.buffer[:n_rows, :n_columns], host[:n_rows, :n_columns])


def test_an_engine_gives_back_only_what_lies_in_its_own_pages():
    """Two trainers on one model, the first one ends first: the second one's weights are still held once."""
    model = lora_model("gemma2")
    first, second = engine_of(model), engine_of(model)
    hosts = {g.storage.host.untyped_storage().data_ptr() for layer in second.layers for g in layer.groups}
    bases = {name: p for name, p in model.named_parameters() if "base_layer.weight" in name}
    before = {name: p.detach().clone() for name, p in bases.items()}
    first.release()
    assert {p.untyped_storage().data_ptr() for p in bases.values()} == hosts
    assert all(torch.equal(p, before[name]) for name, p in bases.items())


def test_trained_weights_do_not_stream():
    with pytest.raises(ValueError, match="needed: frozen"):
        engine_of(plain_model("llama").requires_grad_(True))


def test_memory_that_is_not_there_is_said():
    with pytest.raises(TrainingError, match=r"MiB more of main memory cannot be page-locked for stream_weights"):
        PageLocked((2**30, 2**20), torch.float64, torch.device("cpu"))


def test_pages_are_zero_and_of_any_shape():
    for shape in ((0, 0), (3, 5), (1025, 7)):
        pages = PageLocked(shape, torch.bfloat16, torch.device("cpu"))
        assert pages.tensor.shape == shape and not pages.tensor.any()
        pages.tensor.fill_(1)
        pages.unlock()
        assert pages.tensor.sum() == shape[0] * shape[1]
