"""The comparison at load passes for a right engine in every dtype, and names what is wrong otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, SIZES, lora_model, packed, plain_model
from reference import lengths_of, reference_layer
from transformers import AutoModelForCausalLM, GlmConfig, GraniteConfig

from whet.engine.check import self_check
from whet.engine.read import read_model
from whet.engine.spec import ModelSpec

DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def engine_of(spec, changed=lambda layer: layer, lengths=lengths_of):
    """A right engine (the reference), rounded to the dtype of its input; ``changed`` breaks it."""

    def run_layer(number, x_TD, positions_1T):
        layer, parts = spec.layers[number]
        tables = spec.rotary(positions_1T, torch.float32)
        return reference_layer(changed(layer), parts, x_TD, tables, lengths(positions_1T)).to(x_TD.dtype)

    return run_layer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_engine_passes(family, dtype):
    model = lora_model(family, dtype)
    spec = read_model(model)
    assert self_check(spec, engine_of(spec), model) == ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantised_weights(dtype):
    model = lora_model("llama_biases", dtype, nf4=True)
    spec = read_model(model)
    assert self_check(spec, engine_of(spec), model) == ""
    wrong = engine_of(spec, lambda layer: replace(layer, scale=layer.scale * 1.5))
    assert "layer 0 is off" in self_check(spec, wrong, model)


FAULTS = {
    "scale": lambda layer: replace(layer, scale=layer.scale * 1.1),
    "window": lambda layer: replace(layer, window=None if layer.window is None else layer.window + 1),
    "cap": lambda layer: replace(layer, softcap=None),
    "activation": lambda layer: replace(layer, activation="silu"),
    "offset": lambda layer: replace(layer, norm_offset=0),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_layer_is_named(fault, dtype):
    model = lora_model("gemma2", dtype)
    spec = read_model(model)
    assert "times the rounding of the model's own layer" in self_check(spec, engine_of(spec, FAULTS[fault]), model)


def test_documents_that_see_each_other_are_found():
    model = lora_model("llama", torch.bfloat16)
    spec = read_model(model)
    assert "layer 0" in self_check(spec, engine_of(spec, lengths=lambda p: [p.shape[1]]), model)


def test_not_a_number_is_found():
    model = lora_model("llama")
    spec = read_model(model)
    assert "layer 0 is off by nan" in self_check(spec, lambda number, x, positions: x * float("nan"), model)


def test_what_lies_outside_the_layers_is_found():
    model = lora_model("gemma2", torch.bfloat16)
    spec = read_model(model)
    for wrong in (replace(spec, logit_softcap=None), replace(spec, final_norm_offset=0)):
        assert "log-probabilities are off" in self_check(wrong, engine_of(spec), model)


@pytest.mark.parametrize(
    ("config", "extra"),
    [(GlmConfig, {"head_dim": 6, "attention_bias": True}), (GraniteConfig, {"residual_multiplier": 0.5})],
)
def test_families_that_only_look_alike(config, extra):
    """GLM turns neighbours with tables made for halves; Granite scales its residual."""
    torch.manual_seed(0)
    model = (
        AutoModelForCausalLM.from_config(config(**{**SIZES, **extra}), dtype=torch.float32).eval().requires_grad_(False)
    )
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    spec = read_model(model)
    assert isinstance(spec, ModelSpec), spec
    assert "layer 0 is off" in self_check(spec, engine_of(spec), model)


def test_capped_scores_are_compared_with_eager_attention():
    """A Gemma 2 loaded with torch's attention does not cap; the engine follows the family."""
    model = plain_model("gemma2", torch.float32)
    model.config._attn_implementation = "sdpa"
    spec = read_model(model)
    assert self_check(spec, engine_of(spec), model) == ""
    assert model.config._attn_implementation == "sdpa"


def test_the_model_is_left_as_it_was():
    model = lora_model("llama", torch.bfloat16)
    spec = read_model(model)
    ids_1T, positions_1T = packed((8,))
    with torch.no_grad():
        before = model(input_ids=ids_1T, position_ids=positions_1T, use_cache=False).logits
        self_check(spec, engine_of(spec), model)
        after = model(input_ids=ids_1T, position_ids=positions_1T, use_cache=False).logits
    assert torch.equal(before, after)
    assert not any(layer._forward_hooks for layer in model.get_base_model().model.layers)
    assert all(weight.grad is None for weight in model.parameters())
