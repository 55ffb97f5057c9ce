"""The one file that reads PEFT's layers: the adapter of a linear layer, the layer under it, and why it cannot be read.

PEFT's LoRA layer holds ``base_layer``, ``lora_A`` and ``lora_B`` (linear layers by adapter name) and ``scaling``; it
computes ``base(x) + scaling * B(A(dropout(x)))``. Everything here goes by those attributes, so PEFT is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Lora:
    """``y = base(x) + scale * x Aᵀ Bᵀ``; r columns, K inputs, N outputs. The parameters are PEFT's own."""

    A: torch.nn.Parameter  # (r, K)
    B: torch.nn.Parameter  # (N, r)
    scale: float


def base_of(module: Any) -> torch.nn.Module:
    """The layer under PEFT's wrappers, which holds ``weight`` and ``bias``; the module itself without a wrapper."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def lora_of(module: Any, *, training: bool = True) -> Lora | None:
    """The active adapter of a linear layer; None without one.

    Args:
        training: False for inference: dropout does not matter, an adapter that is switched off or merged into the
            weights counts as none.

    Raises:
        ValueError: the layer does something that these three numbers cannot say; see ``lora_problem``.
    """
    problem = lora_problem(module, training=training)
    if problem:
        raise ValueError(problem)
    names = _active(module)
    if not names or module.merged or module.disable_adapters:
        return None
    (name,) = names
    return Lora(module.lora_A[name].weight, module.lora_B[name].weight, float(module.scaling[name]))


def lora_problem(module: Any, *, training: bool = True) -> str:
    """Why a layer's output is not ``base(x) + scale * x Aᵀ Bᵀ``, in plain words; "" if it is."""
    if hasattr(module, "modules_to_save"):
        return "a layer is trained as a whole (modules_to_save)"
    if not hasattr(module, "base_layer"):
        return ""
    if not hasattr(module, "lora_A") or hasattr(module.base_layer, "base_layer"):
        return f"adapters of the kind {type(module).__name__} are not LoRA on a linear layer"
    names = _active(module)
    if module.merged and (training or module.disable_adapters):
        return "an adapter is merged into the weights"
    if not training and (module.merged or module.disable_adapters):
        return ""
    if len(names) > 1:
        return f"several adapters are active at once ({', '.join(names)})"
    if names and module.disable_adapters:
        return "the adapters are switched off"
    return _adapter_problem(module, names[0], training) if names else ""


def peeled(model: Any) -> torch.nn.Module:
    """The model under PEFT's outer wrapper (and a wrapper with ``module``, as DistributedDataParallel has)."""
    if hasattr(model, "module") and isinstance(model.module, torch.nn.Module):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _active(module: Any) -> list[str]:
    if not hasattr(module, "lora_A"):
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _adapter_problem(module: Any, name: str, training: bool) -> str:
    if module.use_dora.get(name):
        return "DoRA adapters"
    if name in getattr(module, "lora_variant", {}):
        return f"LoRA of the kind {type(module.lora_variant[name]).__name__}"
    dropout = module.lora_dropout[name]
    if training and not isinstance(dropout, torch.nn.Identity) and getattr(dropout, "p", 1.0) > 0:
        return f"LoRA dropout is {getattr(dropout, 'p', 'not known')}, not 0"
    if module.lora_B[name].bias is not None or module.lora_A[name].bias is not None:
        return "LoRA with a bias"
    if getattr(module, "fan_in_fan_out", False):
        return "weights stored as inputs by outputs (fan_in_fan_out)"
    return ""
