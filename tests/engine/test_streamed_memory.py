"""The plan of streamed weights: their bytes against those of an engine on the CPU, their seconds by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_memory import batch_of, highest, tensors
from test_plan import BATCH, GIB, llama
from transformers import AutoConfig, AutoModelForCausalLM

from whet.engine.forward import Engine
from whet.engine.memory import POLICIES, Work, buffer_bytes, fixed_bytes, layer_bytes, main_memory_bytes, weight_bytes
from whet.engine.parts import NORMS
from whet.engine.plan import Works, choose, choose_merged, step_seconds
from whet.engine.rates import H200, head_seconds, layer_forward_seconds, layer_seconds, optimizer_seconds
from whet.engine.read import read_model
from whet.engine.shape import Shape, shape_of_model
from whet.engine.spec import ModelSpec
from whet.engine.streamed import Ring
from whet.models.adapters import quiet_peft

NUMBERS = {"hidden_size": 32, "intermediate_size": 112, "num_hidden_layers": 3, "vocab_size": 64}
NUMBERS |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "llama": ("llama", {}),
    "two groups of one shape": ("llama", {"intermediate_size": 32}),  # o and down share a ring
    "biases": ("qwen2", {}),
    "head norms": ("qwen3", {}),
    "post norms": ("gemma2", {}),
}
FEW = Work(64, 64, 64.0 * 64, equal=True)


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest) -> tuple[Engine, Shape]:
    """An engine of a tiny model with streamed weights, and the shape that the plan has for it."""
    family, changes = MODELS[request.param]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**NUMBERS, **changes}))
    with quiet_peft():
        spec = read_model(get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")))
    assert isinstance(spec, ModelSpec), spec
    return Engine(spec, "none", streamed=True), shape_of_model(spec, storage="streamed", width=4, pad=8)


def rings_of(engine: Engine) -> list[Ring]:
    groups = [group for layer in engine.layers for group in layer.groups]
    return list({id(ring): ring for ring in (group.storage._ring for group in groups)}.values())


def test_what_stays_on_the_device(engine: tuple[Engine, Shape]) -> None:
    attached, shape = engine
    groups = [group for layer in attached.layers for group in layer.groups]
    fixed = fixed_bytes(shape, 1)
    buffers = [buffer for ring in rings_of(attached) for buffer in ring.buffers]
    assert fixed["shared buffers"] == sum(buffer.nbytes for buffer in buffers)
    operands = [tensor for group in groups for tensor in (group.storage.a_RK, group.storage.b_NR)]
    assert fixed["adapter operands"] == sum(tensor.nbytes for tensor in operands)
    parts = [parts for _, parts in attached.spec.layers]
    norms = [norm for part in parts for name in NORMS if (norm := getattr(part, name)) is not None]
    biases = [group.bias for group in groups if group.bias is not None]
    small = sum(tensor.nbytes for tensor in [*norms, *biases])
    assert fixed["weights"] == small + 2 * shape.hidden  # the final norm's, counted in 16 bits
    assert fixed["resident layers"] == weight_bytes(shape) == 0
    assert fixed == fixed_bytes(shape, 1, resident=shape.layers)  # there are no dense copies


def test_what_stays_in_main_memory(engine: tuple[Engine, Shape]) -> None:
    attached, shape = engine
    hosts = [group.storage.host.nbytes for layer in attached.layers for group in layer.groups]
    assert sum(hosts) == main_memory_bytes(shape) == shape.layers * buffer_bytes(shape)
    assert main_memory_bytes(replace(shape, storage="dense")) == main_memory_bytes(replace(shape, storage="nf4")) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_layer_takes_no_more_than_with_dense_weights(
    engine: tuple[Engine, Shape], policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward to the byte, the backward up to the adapters' gradients; weights come into buffers that are there."""
    attached, shape = engine
    number, tokens = 1, 64
    layer, batch = attached.layers[number], batch_of(attached, tokens)
    x, dy = torch.randn(tokens, 32), torch.randn(tokens, 32)
    held = [buffer for ring in rings_of(attached) for buffer in ring.buffers]
    for group in layer.groups:
        held += [group.storage.host, group.storage.a_RK, group.storage.b_NR, *tensors((group.bias,))]
    held += [*layer.parameters, *tensors(batch.tables)]
    expected = layer_bytes(shape, policy, tokens)
    assert expected == layer_bytes(replace(shape, storage="dense"), policy, tokens)
    forward, backward = highest(layer, batch, (x, dy), held, policy, monkeypatch)
    assert forward == expected.forward
    assert backward <= expected.backward - dy.nbytes <= backward + shape.layer_adapters * 4


def test_a_model_that_does_not_fit_fits_streamed() -> None:
    dense, streamed = (choose(llama(storage=storage), BATCH, 12 * GIB, H200) for storage in ("dense", "streamed"))
    assert not dense.fits and streamed.fits and not any(streamed.resident) and streamed.resident_bytes == 0
    shape = llama(storage="streamed")
    elements = [(6144 + 64, 4096 + 64), (4096 + 64, 4096 + 64), (28672 + 64, 4096 + 64), (4096 + 64, 14336 + 64)]
    assert fixed_bytes(shape, 1)["shared buffers"] == 2 * sum(rows * columns * 2 for rows, columns in elements)
    assert main_memory_bytes(shape) == 32 * sum(rows * columns * 2 for rows, columns in elements)


@pytest.mark.parametrize("policy", POLICIES)
def test_short_computations_wait_for_the_weights(policy: str) -> None:
    """Once in the forward and once in the backward of each micro-batch."""
    shape, work = llama(storage="streamed"), FEW._replace(micro_batches=3)
    card = replace(H200, layer_host=0.0)
    found = step_seconds(shape, work, card, (policy,) * 32)
    travel = 2 * 32 * buffer_bytes(shape) / card.link + head_seconds(shape, work, card)
    assert found == pytest.approx(3 * travel + optimizer_seconds(shape, card, 3))
    assert found > 5 * step_seconds(llama(), work, card, (policy,) * 32)
    assert layer_forward_seconds(shape, work, card) == buffer_bytes(shape) / card.link


@pytest.mark.parametrize("policy", POLICIES)
def test_long_computations_hide_them(policy: str) -> None:
    times = {
        storage: step_seconds(llama(storage=storage), BATCH, H200, (policy,) * 32) for storage in ("dense", "streamed")
    }
    assert times["streamed"] == pytest.approx(times["dense"])


def test_forward_and_backward_wait_apart() -> None:
    """Between the two: the forward waits for the weights, the backward, which computes for longer, does not."""
    dense, streamed = llama(), llama(storage="streamed")
    forward = layer_forward_seconds(dense, BATCH, H200)
    backward = layer_seconds(dense, BATCH, H200, "none", False) - forward
    assert backward > 1.15 * forward
    card = replace(H200, link=buffer_bytes(streamed) / (1.1 * forward))
    assert layer_seconds(streamed, BATCH, card, "none", False) == pytest.approx(1.1 * forward + backward)
    assert layer_seconds(dense, BATCH, card, "none", False) == pytest.approx(forward + backward)


def test_a_device_without_a_link_has_its_weights_at_once() -> None:
    card = replace(H200, link=math.inf)
    times = [step_seconds(llama(storage=storage), FEW, card, ("mlp",) * 32) for storage in ("dense", "streamed")]
    assert times[0] == pytest.approx(times[1])


def test_micro_batches_go_together_so_that_weights_travel_less() -> None:
    """Where a host is fast and products are as fast, nothing else would be gained."""
    card = replace(H200, layer_host=1e-6, step_host=0.0)
    works = {}
    for times in (1, 2, 4):
        work = Work(4096 * times, 4096 * times, 4096 * times * 2048.0, 4 // times, equal=True)
        works[times] = Works(work, work)
    dense, streamed = (
        choose_merged(llama(storage=storage), works, 100 * GIB, card) for storage in ("dense", "streamed")
    )
    assert dense.at_once == 1 and streamed.at_once == 4
