"""A model whose frozen projections stay in main memory, while everything else lies on the device that computes.

The engine brings such weights to the device layer by layer (``whet/engine/streamed.py``). Here is the rest: who stays,
hooks with which the model's own forward works too, and what tells transformers' trainer and accelerate to move nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import torch

from whet import runtime
from whet.console import notice
from whet.engine.lora import base_of
from whet.engine.read import read_model
from whet.engine.spec import Unsupported
from whet.errors import ModelError
from whet.main_memory import free_main_memory
from whet.models.scores import WriterView, is_scorer
from whet.train.memory_plan import check_main_memory

ASKED = "stream_weights_asked"  # on a model instance: its adapters are still to come
STAYS = "weights_in_main_memory"  # on a model instance
FIX = "hold the weights in 4 bits (load_in_4bit), or leave stream_weights out"


def streams_here(asked: bool) -> bool:
    """Whether weights will be streamed: it was asked for, and there is a GPU to stream them to; else a note says so."""
    if asked and runtime.device().type != "cuda":
        notice("stream_weights has no effect here: weights are streamed to an NVIDIA GPU, and there is none")
        return False
    return asked


def stays_in_main_memory(model: Any) -> bool:
    """Whether this model went through ``keep_in_main_memory``."""
    return bool(getattr(model, STAYS, False))


def keep_in_main_memory(model: Any, device: torch.device) -> None:
    """Move a model to a device without the weights of its layers' projections; its own forward then runs without
    gradients only.

    Args:
        model: on the CPU, with adapters.
        device: where it computes.

    Raises:
        ModelError: a model that the engine cannot take, or one whose projections are trained or quantised.
        WhetError: less main memory than it would be right to lock.
    """
    spec = read_model(WriterView(model) if is_scorer(model) else model)
    if isinstance(spec, Unsupported):
        raise refusal(spec.reason)
    staying = [[base_of(module) for module in parts.modules()] for _, parts in spec.layers]
    weights: list[Any] = [base.weight for bases in staying for base in bases]
    if any(weight.requires_grad or not weight.is_floating_point() for weight in weights):
        raise ModelError("weights that stay in main memory cannot be trained, nor be quantised", "LoRA", FIX)
    size = sum(weight.nbytes for weight in weights)
    check_main_memory(size, free_main_memory() + min(size, _given_back()))
    _move_others(model, {id(weight) for weight in weights}, device)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer, bases in zip(inner.model.layers, staying, strict=True):
        visit = Visit(bases)
        layer.register_forward_pre_hook(visit.come)
        layer.register_forward_hook(visit.go, always_call=True)
    device = spec.final_norm.device  # with its number, or the trainer takes it for another
    # Two entries: accelerate moves no model that has several. Both name the device where the layers compute: with "cpu"
    # PEFT would dispatch the model anew when a checkpoint is loaded.
    model.hf_device_map = {"": device, "model.layers": device}
    setattr(model, STAYS, True)


def refuse_unstreamed(model: Any, training: bool) -> None:
    """Before all of a model is moved to a GPU that it was not meant for.

    Raises:
        ModelError: it was loaded to be streamed and is to be trained, but ``get_peft_model`` has not seen it.
    """
    if training and getattr(model, ASKED, False) and not stays_in_main_memory(model):
        raise ModelError(
            "the model was loaded with stream_weights, and FastLanguageModel.get_peft_model gave it no adapter",
            "an adapter: weights in main memory cannot be trained",
            "call FastLanguageModel.get_peft_model, or load the model without stream_weights",
        )


def refusal(reason: str) -> ModelError:
    """For a model that only the engine could train."""
    return ModelError(f"the weights of this model cannot be streamed: {reason}", "a model that the engine runs", FIX)


def _given_back() -> int:
    """At most so many bytes become free when weights move into pages of their own, one by one: what the process holds
    itself. Weights that safetensors has only mapped from their file are not among them: those count as free already."""
    held = psutil.Process().memory_info()
    return int(max(0, held.rss - getattr(held, "shared", 0)))


def _move_others(model: torch.nn.Module, staying: set[int], device: torch.device) -> None:
    """Parameters (those shared stay shared) and buffers."""
    for parameter in model.parameters():
        if id(parameter) not in staying:
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


class Visit:
    """Weights of one layer come to its norms for its forward, and are where they were after it, also after an error.

    Args:
        bases: linear layers. Weights that lie in main memory at the time of a call come along.
    """

    def __init__(self, bases: Sequence[Any]) -> None:
        self._bases = list(bases)
        self._homes: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.inference_mode(False)  # or the weights would be tensors of inference from then on
    def come(self, layer: Any, args: Any) -> None:
        self.go(layer, args, None)  # hooks are not called after Ctrl-C
        device = layer.input_layernorm.weight.device  # the whole model may have been moved
        for base in self._bases:
            weight = base.weight
            if weight.device.type == "cpu":
                self._homes.append((weight, weight.data))
                weight.data = weight.data.to(device, non_blocking=True, copy=True)

    @torch.inference_mode(False)
    def go(self, layer: Any, args: Any, output: Any) -> None:
        for weight, home in self._homes:
            weight.data = home
        self._homes = []
