"""How fast a card is, and what a training step takes on it: a plain sum of parts.

The H200's figures were measured one part at a time with the engine's prototype (one H200 at its limit of 700 W, torch
2.11, Triton 3.6, cuDNN 9.19). They are not fitted to whole steps, and predict those of Llama-3-8B at 16,384 tokens
within 3%. A card that lives for seconds under full load is bound by its power: 655 TFLOP/s
here, where single short products reach 790.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from whet.engine.memory import Work, buffer_bytes
from whet.engine.shape import Shape
from whet.engine.spec import GROUPS, GroupName
from whet.engine.trained import update_traffic

TRILLION = 1e12
BACKWARD_FLOPS = 2.5  # of attention, as multiples of its forward: five products where the forward has two
LAUNCHES = {"none": 59, "mlp": 63, "full": 73}  # kernels of a layer's forward and backward, counted in layer.py
TILE_LOSS = {4096: 0.03, 2048: 0.06}  # rows of the MLP at once -> what its products lose (engine_plan.json)
ADAM_BYTES = 28 + 6  # a parameter: weight, gradient, two moments read, three written; the operand refreshed


class AttentionRates(NamedTuple):
    """Seconds = base x elements of q + operations / rate, forward and backward."""

    forward: float  # FLOP/s
    backward: float
    forward_base: float  # seconds for each token and element of the query heads
    backward_base: float


@dataclass(frozen=True)
class CardRates:
    """What a device does in a second.

    Attributes:
        memory: bytes.
        matmul: FLOP/s of large products, sustained.
        copy: B/s of elementwise kernels. skinny: of LoRA's products. dequantise: of NF4 weights; all count each input
            and output once.
        link: B/s from page-locked main memory to the device; infinite where the device computes in main memory.
        dense, varlen: attention on one dense batch, and on packed documents.
        layer_host: seconds of host time to queue one layer's forward and backward, where nothing is made again.
        step_host: of the optimizer step.
        reserved: what the allocator reserves, as a multiple of what is allocated at the peak.
        source: where the figures are from, for people.
    """

    name: str
    memory: int
    matmul: float
    copy: float
    skinny: float
    dequantise: float
    dense: AttentionRates
    varlen: AttentionRates
    layer_host: float = 0.0
    step_host: float = 0.0
    reserved: float = 1.0
    source: str = ""
    link: float = math.inf


H200 = CardRates(
    name="NVIDIA H200",
    memory=139 * 2**30,
    matmul=655 * TRILLION,  # base products of one layer, forward + dgrad, for seconds: 654-661
    copy=3.85 * TRILLION,  # norms, rotation, SwiGLU, row copies: 3.7-4.1; a plain copy 4.26
    skinny=3.5 * TRILLION,  # 3.0-4.2
    dequantise=3.05 * TRILLION,
    # Lines through the measured 64 x 256 and 1 x 16,384 tokens (32/8 heads of 128, causal): cuDNN within 8% at
    # 8 x 2,048 and 3% at 1 x 32,768, FlashAttention-2 with cu_seqlens within 8% at 8 x 2,048 and 4 x 4,096.
    dense=AttentionRates(615 * TRILLION, 549 * TRILLION, 1.11e-12, 8.58e-12),
    varlen=AttentionRates(352 * TRILLION, 323 * TRILLION, 3.43e-12, 1.04e-11),
    layer_host=4.5e-3,  # 4.5-8.7 ms measured
    step_host=12e-3,  # AdamW over 352 tensors and 700 small copies: 9-16 ms; flat buffers take less
    reserved=1.04,  # 71.0 GB reserved for 68.2 GB allocated, 60.7 for 58.6
    source="rates measured on one H200",
    link=55e9,  # H100, PCIe 5.0 x16 (64 GB/s): a step of 2,048 tokens with streamed weights (engine_plan.json)
)


def card_of(name: str, memory: int) -> CardRates | None:
    """The rates of a GPU by the name that its driver gives; None for one that nobody measured."""
    if "H200" in name:
        return replace(H200, memory=memory)
    if "H100 80GB HBM3" in name:  # slower memory, but steps are within 6% of an H200's prediction (engine_plan.json)
        return replace(H200, name=name, memory=memory, source="rates of an H200, within 6% of an H100's steps")
    return None


def measure(device: torch.device, name: str, memory: int, dtype: torch.dtype) -> CardRates:
    """Rates from two short measurements on this device; attention and the rest in proportion, as on an H200."""
    size = 4096 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=dtype)
    matmul = 2 * size**3 / _seconds(lambda: a @ a, device)
    long = torch.empty(2**26 if device.type == "cuda" else 2**22, device=device, dtype=dtype)
    copy = 2 * long.numel() * long.element_size() / _seconds(lambda: long.add_(1), device)
    slower, narrower = matmul / H200.matmul, copy / H200.copy

    def attention(rates: AttentionRates) -> AttentionRates:
        bases = rates.forward_base / narrower, rates.backward_base / narrower
        return AttentionRates(rates.forward * slower, rates.backward * slower, *bases)

    return CardRates(
        name=name,
        memory=memory,
        matmul=matmul,
        copy=copy,
        skinny=H200.skinny * narrower,
        dequantise=H200.dequantise * narrower,
        dense=attention(H200.dense),
        varlen=attention(H200.varlen),
        layer_host=H200.layer_host if device.type == "cuda" else 0.0,
        step_host=H200.step_host if device.type == "cuda" else 0.0,
        reserved=H200.reserved if device.type == "cuda" else 1.0,
        source="rough: one matrix product and one copy were timed here",
        link=_link(device),
    )


def layer_seconds(shape: Shape, work: Work, card: CardRates, policy: str, resident: bool, last: bool = False) -> float:
    """Forward and backward of one layer for one micro-batch, work that the policy does again included.

    Args:
        resident: the layer's NF4 weights have a dense copy.
        last: the last layer, whose work after attention is done for labelled tokens only.
    """
    rows = work.labelled if last else work.tokens
    attention, output, mlp = _attend(shape, work, card), _output(shape, rows, card), _gate_up(shape, rows, card)
    forward = attention + output + mlp + _rest(shape, rows, card)
    backward = _backward(shape, work, rows, card)
    if policy != "none":
        backward += mlp + _skinny(shape, "down", rows, card, inputs=1)
    if policy == "full":
        backward += attention + output + (_rest(shape, rows, card) if shape.post_norms else 0)
    seconds = sum(_with_weights(shape, card, compute, resident) for compute in (forward, backward))
    return max(seconds, card.layer_host * LAUNCHES[policy] / LAUNCHES["none"])


def layer_forward_seconds(shape: Shape, work: Work, card: CardRates, last: bool = False) -> float:
    """Forward of one layer for one micro-batch, without gradients; ``last`` as in ``layer_seconds``."""
    rows = work.labelled if last else work.tokens
    compute = _attend(shape, work, card) + _output(shape, rows, card)
    compute += _gate_up(shape, rows, card) + _rest(shape, rows, card)
    launches = LAUNCHES["full"] - LAUNCHES["none"]
    return max(_with_weights(shape, card, compute, False), card.layer_host * launches / LAUNCHES["none"])


def head_seconds(shape: Shape, work: Work, card: CardRates, backward: bool = True) -> float:
    """The loss and the gradient of the last hidden states: two products, three passes over the logits. A trained head
    makes the logits again in its backward, and has a gradient of its own: four products, five passes.

    Args:
        backward: False: the loss alone.
    """
    logits = 0 if shape.scores else work.labelled * shape.vocab
    products, passes = (4.0, 5.0) if shape.full is not None else (2.0, 3.0)
    if not backward:
        products, passes = 1.0, 1.5
    return 2 * products * logits * shape.hidden / card.matmul + passes * logits * shape.width / card.copy


def tile_seconds(shape: Shape, work: Work, card: CardRates, tile: int) -> float:
    """What a layer loses whose MLP goes through in tiles: five products in all, one of them made again."""
    sizes = (
        shape.size("gate_up"),
        shape.size("gate_up"),
        shape.size("gate_up"),
        shape.size("down"),
        shape.size("down"),
    )
    return TILE_LOSS[tile] * sum(2 * work.tokens * outputs * inputs for outputs, inputs in sizes) / card.matmul


def optimizer_seconds(shape: Shape, card: CardRates, passes: int = 1) -> float:
    """AdamW on the adapters, and their copies into the operands; or on all weights, with the norm of their gradients
    and, of several passes, sums of them."""
    moved = shape.layers * shape.layer_adapters * ADAM_BYTES
    if shape.full is not None:
        moved += update_traffic(shape, passes)
    return moved / card.copy + card.step_host


# --- parts of a layer; elements counted once for each read and each write ---


def _with_weights(shape: Shape, card: CardRates, compute: float, resident: bool) -> float:
    """One pass through a layer that computes for so long: NF4 weights are dequantised before, streamed ones travel
    meanwhile."""
    if shape.storage == "nf4" and not resident:
        return compute + shape.layer_weights * (shape.width + 0.5 + 1 / 64) / card.dequantise
    if shape.storage == "streamed":
        return max(compute, buffer_bytes(shape) / card.link)
    return compute


def _attend(shape: Shape, work: Work, card: CardRates) -> float:
    """Norm, q, k and v, rotation, attention."""
    heads = shape.attended + shape.keys
    elements = 2 * shape.hidden + (4 if shape.qk_norm else 2) * heads
    return (
        _forward_product(shape, "qkv", work.tokens, card)
        + _elementwise(shape, elements, work.tokens, card)
        + _attention(shape, work, card, backward=False)
    )


def _output(shape: Shape, rows: int, card: CardRates) -> float:
    """Output projection, with the copy into the wider buffer and the residual."""
    elements = 2 * shape.attended + (5 if shape.post_norms else 2) * shape.hidden
    return _forward_product(shape, "o", rows, card) + _elementwise(shape, elements, rows, card)


def _gate_up(shape: Shape, rows: int, card: CardRates) -> float:
    return _forward_product(shape, "gate_up", rows, card)


def _rest(shape: Shape, rows: int, card: CardRates) -> float:
    """The MLP's norm, activation, down projection: done once under every policy."""
    elements = 2 * shape.hidden + 3 * shape.mlp + (5 if shape.post_norms else 2) * shape.hidden
    return _forward_product(shape, "down", rows, card) + _elementwise(shape, elements, rows, card)


def _backward(shape: Shape, work: Work, rows: int, card: CardRates) -> float:
    norms = 4 if shape.post_norms else 0
    behind = (2 + 2 + 4 + 2 + norms) * shape.hidden + 6 * shape.mlp
    heads = shape.attended + shape.keys
    before = (2 + 4) * shape.hidden + 2 * (heads + shape.keys) + (8 if shape.qk_norm else 2) * heads
    seconds = _elementwise(shape, behind, rows, card) + _elementwise(shape, before, work.tokens, card)
    for group in GROUPS:
        count = work.tokens if group == "qkv" else rows
        outputs, inputs = shape.size(group)
        products = 2 if shape.full is not None else 1  # the gradient of the weights is as large as that of the input
        seconds += products * 2 * count * inputs * (outputs + shape.columns(group)) / card.matmul
        seconds += _skinny(shape, group, count, card, inputs=1, outputs=2)
    return seconds + _attention(shape, work, card, backward=True)


def _forward_product(shape: Shape, group: GroupName, rows: int, card: CardRates) -> float:
    outputs, inputs = shape.size(group)
    product = 2 * rows * outputs * (inputs + shape.columns(group)) / card.matmul
    return product + _skinny(shape, group, rows, card, inputs=1)


def _skinny(shape: Shape, group: GroupName, rows: int, card: CardRates, inputs: int = 0, outputs: int = 0) -> float:
    """LoRA's own products: they read a group's inputs or outputs so many times."""
    if not shape.columns(group):
        return 0.0
    wide, narrow = shape.size(group)
    return rows * (inputs * narrow + outputs * wide) * shape.width / card.skinny


def _elementwise(shape: Shape, elements: int, rows: int, card: CardRates) -> float:
    return rows * elements * shape.width / card.copy


def _attention(shape: Shape, work: Work, card: CardRates, backward: bool) -> float:
    """Causal: half of the square of each document; a window cuts it, on average over the layers that have one."""
    rates = card.dense if work.equal else card.varlen
    pairs = work.squares / 2
    if shape.window is not None and pairs:
        length = work.squares / work.seen  # of the document of an average token
        inside = min(1.0, shape.window / length * (2 - min(1.0, shape.window / length)))
        pairs *= 1 - shape.windowed / shape.layers * (1 - inside)
    operations = 4 * pairs * shape.attended
    elements = work.seen * shape.attended
    if backward:
        return BACKWARD_FLOPS * operations / rates.backward + rates.backward_base * elements
    return operations / rates.forward + rates.forward_base * elements


def _link(device: torch.device) -> float:
    """B/s from page-locked main memory to a GPU, measured with 64 MiB."""
    if device.type != "cuda":
        return math.inf
    host = torch.empty(2**26, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=device, pin_memory=False)
    return host.nbytes / _seconds(lambda: there.copy_(host, non_blocking=True), device)


def _seconds(call: Callable[[], object], device: torch.device, at_least: float = 0.2) -> float:
    """Seconds of one call, after a warm-up, over calls that fill ``at_least`` seconds."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    call()
    wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < at_least:
        for _ in range(4):
            call()
        wait()
        count += 4
    return (time.perf_counter() - began) / count
