"""The engine training a model's weights themselves, against plain float64 autograd, on every family."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, lora_model, plain_model
from reference import reference_loss
from test_engine import batch_of, engine_of, gradients, same_as_the_reference


def full_model(family: str, dtype: torch.dtype = torch.float64, **changes):
    return plain_model(family, dtype, **changes).requires_grad_(True)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_are_those_of_the_reference(family):
    model = full_model(family)
    assert same_as_the_reference(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("family", ["llama_biases", "qwen3", "gemma2"])
def test_passes_add_up(family):
    """Weights of a group share one gradient tensor: the second pass adds to views of it."""
    model = full_model(family)
    engine = engine_of(model)
    first, second = batch_of(seed=1), batch_of(seed=2)
    both = gradients(model, engine.loss_sum(*first) + engine.loss_sum(*second))
    model.zero_grad()
    for batch in (first, second):
        engine.loss_sum(*batch).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad - both[name]).norm() <= 1e-13 * both[name].norm(), name


@pytest.mark.parametrize(
    ("family", "trained"),
    [
        *(("llama", part) for part in ("norm", "mlp", "self_attn", "embed_tokens", "lm_head", "model.norm")),
        *(("gemma3", part) for part in ("norm", "mlp", "self_attn", "embed_tokens")),
    ],
)
def test_a_part_of_the_weights(family, trained):
    """What is frozen gets no gradient, whatever is trained beside it."""
    model = plain_model(family)
    chosen = {name for name, p in model.named_parameters() if trained in name}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    engine, batch = engine_of(model, "mlp"), batch_of()
    wanted = gradients(model, reference_loss(engine.spec, *batch))
    found = gradients(model, engine.loss_sum(*batch))
    assert found.keys() == wanted.keys() == chosen
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-12 * gradient.norm(), name


def test_tiles_are_for_frozen_weights():
    """Trained MLPs go through whole: their gradients are rounded once."""
    model = plain_model("llama", torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    engine, batch = engine_of(model, "full"), batch_of((23,))
    whole = gradients(model, engine.loss_sum(*batch))
    engine.tile = 3
    tiled = gradients(model, engine.loss_sum(*batch))
    assert tiled.keys() == whole.keys() and all(torch.equal(tiled[name], whole[name]) for name in whole)


def test_adapters_beside_trained_weights():
    """Adapters on attention, the MLP's own weights trained."""
    model = lora_model("llama", target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    for name, parameter in model.named_parameters():
        if ".mlp." in name:
            parameter.requires_grad_(True)
    engine, batch = engine_of(model), batch_of()
    wanted = gradients(model, reference_loss(engine.spec, *batch))
    found = gradients(model, engine.loss_sum(*batch))
    assert found.keys() == wanted.keys() and any(".mlp." in name for name in found)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-12 * gradient.norm(), name


def test_steps_of_an_optimizer_are_seen():
    """Weights and biases are views of what the engine multiplies by."""
    model = full_model("llama_biases")
    engine, batch = engine_of(model), batch_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        engine.loss_sum(*batch).backward()
        optimizer.step()
    assert all(p.is_contiguous() for p in model.parameters())
    wanted, found = reference_loss(engine.spec, *batch), engine.loss_sum(*batch)
    assert abs(found - wanted) <= 1e-12 * abs(wanted)


@pytest.mark.parametrize("family", ["llama_biases", "qwen2"])
def test_frozen_weights_and_biases_that_are_written_are_seen(family):
    """As a loaded state dict writes them."""
    model = lora_model(family)
    engine, batch = engine_of(model), batch_of()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    wanted, found = reference_loss(engine.spec, *batch), engine.loss_sum(*batch)
    assert abs(found - wanted) <= 1e-12 * abs(wanted)
    engine.release()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases and len({p.untyped_storage().data_ptr() for p in biases}) == len(biases)
    assert abs(reference_loss(engine.spec, *batch) - wanted) <= 1e-12 * abs(wanted)


def test_weights_that_move_are_followed():
    model = full_model("llama_biases")
    engine, batch = engine_of(model), batch_of()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone() * 1.1
    wanted, found = reference_loss(engine.spec, *batch), engine.loss_sum(*batch)
    assert abs(found - wanted) <= 1e-12 * abs(wanted)
    model.float()
    with pytest.raises(ValueError, match=r"is torch\.float32 on cpu now; needed: torch\.float64"):
        engine.loss_sum(*batch)


def test_release_gives_weights_of_their_own():
    model = full_model("llama_biases")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine_of(model).release()
    places = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(places) == len(before)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_bfloat16_gradients_are_no_worse_than_the_model_s_own(family):
    exact, short = full_model(family), full_model(family, torch.bfloat16)
    with torch.no_grad():
        for wide, narrow in zip(exact.parameters(), short.parameters(), strict=True):
            wide.copy_(narrow)
    batch = batch_of((23,))
    wanted = gradients(exact, reference_loss(engine_of(exact).spec, *batch))
    ids, positions, labels = batch
    logits = short(input_ids=ids, position_ids=positions, use_cache=False).logits[0, :-1].float()
    own = gradients(short, torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum"))
    found = gradients(short, engine_of(short).loss_sum(*batch))
    errors = [
        torch.stack([(some[name].double() - wanted[name]).norm() / wanted[name].norm() for name in wanted]).mean()
        for some in (found, own)
    ]
    assert errors[0] <= 1.2 * errors[1], errors
