"""Backbone and head: found by measurement, with adapters in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from whet.models.adapters import add_lora
from whet.models.parts import exact_on_cpu, halves

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def logits_both_ways(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found = halves(model)
    assert found is not None
    ids_BT = torch.arange(4, 24)[None]
    with torch.no_grad():
        return model(ids_BT).logits, found.head(found.backbone(input_ids=ids_BT)[0])


@pytest.mark.parametrize("kind", ["tiny_llama_dir", "tiny_qwen2_dir"])
@pytest.mark.parametrize("adapter", [False, True])
def test_the_head_on_the_backbone_makes_the_models_logits(
    kind: str, adapter: bool, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        model = add_lora(model, rank=4, init_lora_weights=False)
    whole, split = logits_both_ways(model)
    assert torch.allclose(whole, split, atol=1e-5)


def test_an_adapter_on_the_head_is_part_of_the_head(tiny_llama_dir: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    whole, split = logits_both_ways(add_lora(base, rank=4, target_modules=["lm_head"], init_lora_weights=False))
    assert torch.allclose(whole, split, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.05)),
        lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)),
    ],
    ids=["capped logits", "scaled logits"],
)
def test_logits_that_are_changed_after_the_head_are_noticed(make: Any) -> None:
    torch.manual_seed(1)
    assert halves(make()) is None


def test_the_look_leaves_the_model_as_it_was(tiny_llama_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    for training in (True, False):
        model.train(training)
        assert halves(model) is not None
        assert model.training is training and all(p.grad is None for p in model.parameters())


def test_short_weights_are_float32_for_a_proof_and_the_same_ones_after_it(tiny_llama_dir: Path) -> None:
    model: Any = add_lora(AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.bfloat16), rank=4)
    before = {name: (p.dtype, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    ids_BT = torch.arange(4, 24)[None]
    with torch.no_grad(), exact_on_cpu(model):
        exact = model(ids_BT).logits
    wide = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.bfloat16).float()
    assert exact.dtype == torch.float32 and torch.equal(exact, wide(ids_BT).logits)  # B is zero in a new adapter
    for name, parameter in model.named_parameters():
        dtype, place, value = before[name]
        assert (parameter.dtype, parameter.data_ptr()) == (dtype, place) and torch.equal(parameter, value), name
