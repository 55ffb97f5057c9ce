"""The bytes of a step: against the published accounting, the measured peaks of the prototype, and the engine itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.engine.memory import (
    POLICIES,
    Work,
    activation_peak,
    buffer_bytes,
    fixed_bytes,
    kept_per_token,
    layer_bytes,
    weight_bytes,
)
from whet.engine.shape import FAMILIES, Shape, shape_of_config

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
SPARE_COLUMNS = 2 * 32  # gu's, in bytes: the published figure for "none" leaves them out


def llama(**changes: Any) -> Shape:
    shape = shape_of_config(LLAMA_8B, **{"rank": 16, **changes})
    assert isinstance(shape, Shape)
    return shape


def full_batch(tokens: int) -> Work:
    return Work(tokens, tokens, tokens * 2048.0, equal=True)


def test_the_accounting_of_llama_8b() -> None:
    kept = {policy: kept_per_token(llama(pad=1), policy) for policy in POLICIES}
    assert kept == {"none": 94_568 + SPARE_COLUMNS, "mlp": 37_128, "full": 8_192}


def test_what_was_measured_on_a_gpu_is_the_padded_accounting() -> None:
    assert [kept_per_token(llama(), policy) for policy in POLICIES] == [94_984, 37_256, 8_192]


@pytest.mark.parametrize(
    ("storage", "policy", "tokens", "measured"),
    [
        ("dense", "none", 16384, 68.2),
        ("dense", "mlp", 16384, 38.145),
        ("dense", "full", 16384, 23.511),
        ("dense", "none", 4096, 30.6),
        ("dense", "mlp", 4096, 22.975),
        ("nf4", "none", 16384, 58.7),
        ("nf4", "mlp", 16384, 28.595),
        ("nf4", "none", 4096, 21.012),
        ("nf4", "mlp", 4096, 13.431),
    ],
)
def test_peaks_of_the_prototype(storage: str, policy: str, tokens: int, measured: float) -> None:
    """GB (1e9 bytes) on one H200, chunks of 4,096 rows; the prototype's NF4 had float32 scales."""
    shape = llama(storage=storage)
    peak = sum(fixed_bytes(shape, tokens).values())
    peak += activation_peak(shape, full_batch(tokens), (policy,) * 32, 4096)
    if storage == "nf4":
        peak += shape.layers * shape.layer_weights // 64 * 3
    assert -0.01 < peak / 1e9 / measured - 1 < 0.01


def test_weights_are_held_once() -> None:
    dense, packed = llama(), llama(storage="nf4")
    assert buffer_bytes(dense) == 2 * sum(
        (n + 64) * (k + 64) for n, k in [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]
    )
    assert weight_bytes(dense) == buffer_bytes(dense)
    assert 0.515 < weight_bytes(packed) / packed.layer_weights < 0.517  # 4 bits, 8-bit scales of 64, and tables
    assert dense.layers * dense.layer_adapters == 41_943_040


def test_resident_layers_replace_the_shared_buffers_when_all_are() -> None:
    shape = llama(storage="nf4")
    some, every = fixed_bytes(shape, 1024, 3), fixed_bytes(shape, 1024, 32)
    assert some["resident layers"] == 3 * buffer_bytes(shape) and some["shared buffers"] > 0
    assert every["resident layers"] == 32 * buffer_bytes(shape) and every["shared buffers"] == 0


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    heads=st.sampled_from([1, 2, 6]),
    mlp=st.integers(1, 300),
    rank=st.sampled_from([0, 1, 16]),
    tokens=st.integers(1, 5000),
    policies=st.lists(st.sampled_from(POLICIES), min_size=1, max_size=6),
    data=st.data(),
)
def test_memory_of_any_shape(
    family: str, heads: int, mlp: int, rank: int, tokens: int, policies: list[str], data: st.DataObject
) -> None:
    config = {
        "model_type": family,
        "hidden_size": 24,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "num_hidden_layers": len(policies),
        "vocab_size": 50,
    }
    shape = shape_of_config(config, rank=rank)
    assert isinstance(shape, Shape)
    labelled = data.draw(st.integers(0, tokens))
    layers = [layer_bytes(shape, policy, tokens) for policy in policies[:-1]]
    last = layer_bytes(shape, policies[-1], tokens, labelled)
    peak = activation_peak(shape, Work(tokens, labelled, 0.0), policies, 64)
    # By hand: every layer at its own place.
    x, below, highest = tokens * 24 * 2, 0, 0
    for layer in [*layers, last]:
        highest = max(highest, below + x + layer.forward, below + layer.kept + layer.backward)
        below += layer.kept
    logits = min(labelled, 64) * 50 * 2
    assert peak == max(highest, below + labelled * (3 * 24 * 2 + 4) + logits)
    kept = [kept_per_token(shape, policy) for policy in POLICIES]
    assert kept == sorted(kept, reverse=True) and kept[2] == 24 * 2


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match="attn"):
        kept_per_token(llama(), "attn")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_layer_of_the_engine_keeps_what_the_model_says(family: str, policy: Any) -> None:
    pytest.importorskip("whet.engine.forward")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from whet.engine.forward import Engine
    from whet.engine.layer import Batch, keep, layer_forward
    from whet.engine.shape import shape_of_model

    numbers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
    numbers |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(family, **numbers)
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config), LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    engine: Any = Engine.attach(model)
    shape = shape_of_model(engine.spec, width=4, pad=8)
    assert shape == shape_of_config(config, rank=3, width=4, pad=8)
    positions = torch.cat([torch.arange(7), torch.arange(4)])[None]
    x = torch.randn(11, 32)
    from whet.engine.attention import documents_of

    batch = Batch(documents_of(positions), engine.spec.rotary(positions, x.dtype))
    with torch.no_grad():
        _, kept = layer_forward(x, engine.layers[0], batch)
    assert kept_bytes(keep(kept, policy)) == 11 * kept_per_token(shape, policy)


def kept_bytes(kept: dict[str, Any]) -> int:
    """Bytes of the storages that the tensors of a layer lie in, each counted once."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, tuple | list):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            visit(list(value.values()))

    visit(kept)
    return sum(storages.values())
