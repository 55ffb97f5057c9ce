"""The bytes of a step that trains the weights themselves, against those that the engine takes on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from test_memory import counted, highest, tensors
from transformers import AutoConfig, AutoModelForCausalLM

import whet.engine.forward as forward_module
import whet.engine.loss as loss_module
import whet.engine.trained_head as head_module
from whet.engine.attention import documents_of
from whet.engine.forward import Engine
from whet.engine.layer import Batch
from whet.engine.memory import POLICIES, Work, activation_peak, fixed_bytes, layer_bytes
from whet.engine.shape import Shape, shape_of_config, shape_of_model

HIDDEN = 32
NUMBERS = {"hidden_size": HIDDEN, "intermediate_size": 112, "num_attention_heads": 4, "num_key_value_heads": 2}


def engine_of(family: str, layers: int, vocab: int, tied: bool) -> tuple[Engine, Shape]:
    """With random weights, all of them trained, and the shape that the plan has for it."""
    numbers = {**NUMBERS, "head_dim": 8, "num_hidden_layers": layers, "vocab_size": vocab, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **numbers, tie_word_embeddings=tied)
    attached = Engine.attach(AutoModelForCausalLM.from_config(config).requires_grad_(True))
    assert isinstance(attached, Engine)
    shape = shape_of_model(attached.spec, width=4, pad=8)
    assert shape.full is not None and shape == shape_of_config(config, rank=0, width=4, pad=8, full=shape.full)
    return attached, shape


def owned(engine: Engine) -> list[Any]:
    """What is there before a step."""
    groups = [group for layer in engine.layers for group in layer.groups]
    buffers = [(group.storage.buffer, group.bias) for group in groups]
    return [*tensors(buffers), *(p for layer in engine.layers for p in layer.parameters)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("tokens", [3, 64, 400])
def test_a_layer_takes_what_the_lists_say(
    family: str, policy: Any, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte: few tokens, and gradients of weights are the most; many, and activations are."""
    engine, shape = engine_of(family, 1, 64, tied=True)
    layer, positions = engine.layers[0], torch.arange(tokens)[None]
    batch = Batch(documents_of(positions), engine.spec.rotary(positions, torch.float32))
    x, dy = torch.randn(tokens, HIDDEN), torch.randn(tokens, HIDDEN)
    held = [*owned(engine), *tensors(batch.tables)]
    expected = layer_bytes(shape, policy, tokens)
    forward, backward = highest(layer, batch, (x, dy), held, policy, monkeypatch)
    assert forward == expected.forward
    assert backward == expected.backward - dy.nbytes


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("vocab", "tokens", "labelled"), [(4000, 20, 7), (200, 600, 500), (900, 300, 300)])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("policies", [("none", "none"), ("full", "mlp", "none"), ("full",) * 8])
def test_a_step_takes_what_is_planned(
    family: str,
    tied: bool,
    vocab: int,
    tokens: int,
    labelled: int,
    passes: int,
    policies: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, shape = engine_of(family, len(policies), vocab, tied)
    engine.policies, engine.chunk_rows = list(policies), 64
    ids, positions = torch.randint(0, vocab, (1, tokens)), torch.arange(tokens)[None]
    labels = ids.clone()
    labels[0, : tokens - labelled] = -100
    parameters = set(engine._parameters) | {engine.spec.embed.weight, engine.spec.head.weight, engine.spec.final_norm}
    if passes > 1:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
    known = [*owned(engine), *parameters, *(p.grad for p in parameters if p.grad is not None), ids, positions, labels]
    work = Work(tokens, min(labelled, tokens - 1), 0.0, passes)
    peak = activation_peak(shape, work, policies, engine.chunk_rows)
    with steps_counted(known, monkeypatch) as live:
        engine.loss_sum(ids, positions, labels).backward()
    made = fixed_bytes(shape, tokens)["batch"]  # in the step: rotations, positions, targets
    assert peak - tokens * HIDDEN * 4 <= live.highest <= peak + made


def steps_counted(known: list[Any], monkeypatch: pytest.MonkeyPatch) -> LiveBytes:
    live = counted(known, monkeypatch)
    for place, names in (
        (forward_module, ("rms_norm", "rms_norm_backward")),
        (loss_module, ("cross_entropy_rows",)),
        (head_module, ("cross_entropy_slice_",)),
    ):
        for name in names:
            monkeypatch.setattr(place, name, live.kernel(getattr(place, name)))
    return live
