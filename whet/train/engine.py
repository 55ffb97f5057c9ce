"""Which forward a run uses: the engine, or the model's own, and why."""

from __future__ import annotations

from typing import Any

import torch

from whet import runtime
from whet.engine.ahead import compile_ahead, compile_meanwhile
from whet.engine.check import self_check
from whet.engine.forward import Engine
from whet.engine.kernels.available import triton_problem
from whet.engine.lora import base_of
from whet.engine.parts import NORMS
from whet.engine.plan import Goal, policy_for
from whet.engine.read import read_model
from whet.engine.spec import ModelSpec, Unsupported
from whet.models.load import config_of
from whet.models.scores import WriterView, is_scorer

ASKED = "gradient_checkpointing_asked"  # on a model instance: what its user wrote for use_gradient_checkpointing


def engine_for(model: Any, *, processes: int = 1, full: str = "") -> Engine | str:
    """An engine that computes what the model computes, checked here; otherwise why the model's own forward runs.

    Args:
        processes: of the run; several need gradients to be summed, which only the model's own forward does yet.
        full: why weights that are trained themselves are not for the engine (``whet.train.full.engine_problem``).
    """
    if processes > 1:
        return "several processes train together"
    device = next(model.parameters()).device
    if device.type == "cuda" and triton_problem():
        return triton_problem()
    seen = WriterView(model) if is_scorer(model) else model
    spec = read_model(seen)
    if isinstance(spec, Unsupported):
        return spec.reason
    if full and any(weight.requires_grad for weight in _weights(spec)):
        return full
    if _needs_autocast(spec):
        return "norms have another dtype than the other weights, which needs autocast"
    compile_ahead(spec)
    engine = Engine(spec)
    problem = self_check(engine.spec, engine.run_layer, seen)
    if problem:
        engine.release()
        return problem
    return engine


def _weights(spec: ModelSpec) -> list[torch.Tensor]:
    """Of the products; of the others those that an optimizer of whole matrices would make float32."""
    others = [*(base_of(module).weight for module in (spec.embed, spec.head)), *_norms(spec)]
    return _products(spec) + [weight for weight in others if weight.dtype == torch.bfloat16]


def _products(spec: ModelSpec) -> list[torch.Tensor]:
    return [base_of(module).weight for _, parts in spec.layers for module in parts.modules()]


def _norms(spec: ModelSpec) -> list[torch.Tensor]:
    weights = [getattr(parts, name) for _, parts in spec.layers for name in NORMS]
    return [spec.final_norm, *(weight for weight in weights if weight is not None)]


def _needs_autocast(spec: ModelSpec) -> bool:
    """Whether norms give the products an input of another dtype; quantised weights take it."""
    dtypes = {weight.dtype for weight in _products(spec) if weight.is_floating_point()}
    return any(dtypes - {norm.dtype} for norm in _norms(spec))


def head_start(name: str, dtype: torch.dtype | None, *, four_bit: bool, **hub: Any) -> None:
    """Where there is a GPU, start Triton and compile the kernels of a model that is about to be loaded, meanwhile.

    Args:
        name, dtype, four_bit: as ``load_model`` takes them. hub: what else it takes to find the model.

    Raises:
        ModelError: no such model.
    """
    device = runtime.device()
    if device.type == "cuda":
        four_bit = four_bit and runtime.installed("bitsandbytes")
        weights = runtime.weight_dtype(dtype, training=True).dtype
        compile_meanwhile(config_of(name, **hub), weights, device, four_bit=four_bit)


def goal_of(model: Any, args: Any) -> Goal:
    """What was asked of gradient checkpointing: by the arguments, by ``FastLanguageModel``, or on the model itself."""
    if any(getattr(args, f"{name}_checkpointing", False) for name in ("gradient", "activation")):
        return "full"
    asked = getattr(model, ASKED, None)
    if asked is None and any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
        return "full"
    return policy_for(asked)
