"""The reference computes what transformers and PEFT compute: logits, loss and gradients of every family.

Stock models round norms and rotation to float32 even in float64, hence 1e-6 and not 1e-12.
"""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, lora_model, packed
from reference import IGNORE, reference_logits, reference_loss

from whet.engine.read import read_model
from whet.engine.spec import ModelSpec

LENGTHS = ((23,), (9, 1, 14, 7))


def spec_of(model) -> ModelSpec:
    spec = read_model(model)
    assert isinstance(spec, ModelSpec), spec
    return spec


def own_logits(model, ids_1T, positions_1T):
    return model(input_ids=ids_1T, position_ids=positions_1T, attention_mask=None, use_cache=False).logits[0]


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


CASES = [(family, False) for family in FAMILIES] + [(family, True) for family in ("llama_biases", "gemma3", "phi3")]


@pytest.mark.parametrize("lengths", LENGTHS, ids=["one", "packed"])
@pytest.mark.parametrize(("family", "nf4"), CASES)
def test_logits_loss_and_gradients_are_those_of_the_model(family, nf4, lengths):
    model = lora_model(family, nf4=nf4)
    ids_1T, positions_1T = packed(lengths)
    labels_1T = torch.where(torch.arange(ids_1T.shape[1]) % 3 == 0, IGNORE, ids_1T)
    adapters = [weight for weight in model.parameters() if weight.requires_grad]

    own_TV = own_logits(model, ids_1T, positions_1T)
    own_loss = torch.nn.functional.cross_entropy(own_TV[:-1], labels_1T[0, 1:], ignore_index=IGNORE, reduction="sum")
    own_grads = torch.autograd.grad(own_loss, adapters)
    spec = spec_of(model)
    loss = reference_loss(spec, ids_1T, positions_1T, labels_1T)
    grads = torch.autograd.grad(loss, adapters)

    assert distance(reference_logits(spec, ids_1T, positions_1T), own_TV) <= 1e-6
    assert abs((loss - own_loss).item()) <= 1e-6 * own_loss.item()
    assert len(adapters) == 2 * sum(len(modules) for _, parts in spec.layers for modules in parts.groups.values())
    assert all(own.norm() > 0 for own in own_grads)
    assert distance(torch.cat([g.flatten() for g in grads]), torch.cat([g.flatten() for g in own_grads])) <= 1e-6
    assert max(distance(grad, own) for grad, own in zip(grads, own_grads, strict=True)) <= 2e-6
