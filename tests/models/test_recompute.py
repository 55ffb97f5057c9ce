"""Gradient checkpointing of as few layers as memory allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from whet.models.recompute import keep_as_many, recompute


def model_of(layers: int) -> Any:
    torch.manual_seed(0)
    numbers = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers, "vocab_size": 32}
    config = AutoConfig.for_model("llama", **numbers, num_attention_heads=2, num_key_value_heads=1)
    return AutoModelForCausalLM.from_config(config).train()


def kept(model: Any) -> list[bool]:
    return [not layer.gradient_checkpointing for layer in model.model.layers]


@pytest.mark.parametrize("room", [0, 1, 2, 3, 5, 6])
def test_as_many_as_fit(room: int) -> None:
    model, tries = model_of(7), []
    recompute(model)

    def fits() -> bool:
        tries.append(sum(kept(model)))
        return tries[-1] <= room

    assert keep_as_many(model, fits) == (room, 7)
    assert kept(model) == [False] * (7 - room) + [True] * room  # the last ones
    assert len(tries) <= 3 and 7 not in tries


def test_the_number_is_found_in_few_tries() -> None:
    model, tries = model_of(36), []
    recompute(model)

    def fits() -> bool:
        tries.append(sum(kept(model)))
        return tries[-1] <= 23

    found, layers = keep_as_many(model, fits)
    assert layers == 36 and 20 <= found <= 23 and len(tries) <= 4


def test_gradients_stay_the_same() -> None:
    ids = torch.randint(0, 32, (1, 9), generator=torch.Generator().manual_seed(1))
    found = []
    for room in (None, 2):
        model = model_of(4)
        if room is not None:
            recompute(model)
            saved = [saved_bytes(model, ids)]
            keep_as_many(model, lambda model=model: sum(kept(model)) <= 2)
            saved.append(saved_bytes(model, ids))
            assert saved[1] > saved[0]
            model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def saved_bytes(model: Any, ids: torch.Tensor) -> int:
    """What autograd keeps between forward and backward."""
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    return sum(sizes.values())
