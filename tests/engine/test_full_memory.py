"""The bytes of a full fine-tune: parameters to the byte, activations against a count of what torch holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from transformers import AutoConfig, AutoModelForCausalLM

from whet.engine.full_memory import full_bytes, layer_kept
from whet.engine.loss import labelled_loss
from whet.engine.memory import Work
from whet.engine.shape import FullTraining, Shape, shape_of_config
from whet.models.recompute import recompute

ROWS, LENGTH = 2, 96
TOLERANCE = 0.15


def made(family: str, layers: int, dtype: torch.dtype, **changes: Any) -> tuple[Any, Shape]:
    numbers = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": layers, "vocab_size": 300}
    numbers |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, **changes}
    config = AutoConfig.for_model(family, **numbers)
    shape = shape_of_config(config, rank=0, width=dtype.itemsize)
    assert isinstance(shape, Shape)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    return model.train(), shape


def positions() -> torch.Tensor:
    """Two documents a row."""
    half = torch.arange(LENGTH // 2)
    return torch.cat([half, half]).repeat(ROWS, 1)


def measured(model: Any, backward: bool) -> int:
    """Bytes over the model's own at the end of a forward of its layers, or the highest of forward and backward."""
    ids = torch.randint(0, 300, (ROWS, LENGTH))
    with LiveBytes([list(model.parameters())]) as live:
        hidden = model.model(input_ids=ids, position_ids=positions(), use_cache=False)[0]
        if not backward:
            return live.now
        labelled_loss(hidden, model.lm_head, ids).backward()
    return live.highest


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_exactly(family: str, tied: bool) -> None:
    model, shape = made(family, 2, torch.bfloat16, tie_word_embeddings=tied)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    found = full_bytes(shape, Work(10, 10, 0.0), FullTraining()).parameters
    assert found.weights == sum(p.nbytes for p in model.parameters()) == found.gradients == found.masters


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_layer_keeps_what_the_formula_says(family: str, dtype: torch.dtype) -> None:
    """The difference between models of four and of two layers."""
    found = [measured(made(family, layers, dtype)[0], backward=False) for layers in (2, 4)]
    expected = 2 * ROWS * LENGTH * layer_kept(made(family, 2, dtype)[1], dtype.itemsize)
    assert abs((found[1] - found[0]) / expected - 1) < TOLERANCE


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layers", [2, 8])
def test_the_highest_point_of_a_step(layers: int, dtype: torch.dtype, again: bool) -> None:
    model, shape = made("llama", layers, dtype)
    if again:
        recompute(model)
    found = full_bytes(shape, Work(ROWS * LENGTH, ROWS * (LENGTH - 1), 0.0), FullTraining())
    assert abs(measured(model, backward=True) / (found.recomputed if again else found.forward) - 1) < 2 * TOLERANCE
