"""Which forward a run uses: the engine, or the model's own, and why."""

from __future__ import annotations

from typing import Any

from whet.console import notice
from whet.engine.check import self_check
from whet.engine.forward import Engine
from whet.engine.kernels.available import triton_problem
from whet.engine.layer import Policy
from whet.engine.spec import Unsupported


def engine_for(model: Any, *, recompute: bool, processes: int = 1) -> Engine | None:
    """An engine that computes what the model computes, checked here; None, with a notice that says why, otherwise.

    Args:
        recompute: gradient checkpointing was asked for: every layer is computed again in the backward.
        processes: of the run; several need gradients to be summed, which only the model's own forward does yet.
    """
    if processes > 1:
        return _none("several processes train together")
    device = next(model.parameters()).device
    if device.type == "cuda" and triton_problem():
        return _none(triton_problem())
    policy: Policy = "full" if recompute else "none"
    engine = Engine.attach(model, policy)
    if isinstance(engine, Unsupported):
        return _none(engine.reason)
    problem = self_check(engine.spec, engine.run_layer, model)
    if problem:
        engine.release()
        return _none(problem)
    return engine


def recomputes(model: Any, args: Any) -> bool:
    """Whether gradient checkpointing was asked for, by the arguments or on the model."""
    asked = any(getattr(args, f"{name}_checkpointing", False) for name in ("gradient", "activation"))
    return asked or any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


def _none(reason: str) -> Engine | None:
    notice(f"the model's own forward is used, not the engine: {reason}", key="engine")
    return None
