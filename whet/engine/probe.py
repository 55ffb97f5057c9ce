"""Recognises norms and activations by what they compute on a few numbers.

The numbers are fixed, so that no random state is touched.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from whet.engine.spec import Activation

ROWS = 4
ULPS = 8  # of the norm's dtype; the two kinds differ by a whole weight


def norm_of(norm: Any) -> tuple[int, float] | None:
    """(offset, eps) of an RMS norm: y = x / rms(x) * (weight + offset); None for anything else.

    Llama's rounds the normalised x before the weight, Gemma's keeps float32 to the end: one follows from the other.
    """
    weight = getattr(norm, "weight", None)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1 or getattr(norm, "bias", None) is not None:
        return None
    if not isinstance(eps, float) or weight.device.type == "meta":
        return None
    x_RC = _numbers(weight)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        y_RC = norm(x_RC).double()
    normed_RC = x_RC.double() * (x_RC.double().pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    for offset in (0, 1):
        expected_RC = normed_RC * (weight.detach().double() + offset)
        limit = ULPS * max(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps) * normed_RC.abs().max()
        if (y_RC - expected_RC).abs().max() <= limit * (1 + weight.detach().abs().max()):
            return offset, eps
    return None


def activation_of(function: Any) -> Activation | None:
    """The name of an activation; None for one that the engine does not have."""
    if not callable(function):
        return None
    x_C = torch.linspace(-6, 6, 97)
    y_C = function(x_C)
    if torch.allclose(y_C, F.silu(x_C), rtol=1e-6, atol=1e-6):
        return "silu"
    if torch.allclose(y_C, F.gelu(x_C, approximate="tanh"), rtol=1e-5, atol=2e-6):
        return "gelu_tanh"
    return None


def _numbers(weight: torch.Tensor) -> torch.Tensor:
    steps_RC = torch.arange(ROWS * weight.shape[0], dtype=torch.float64).reshape(ROWS, -1)
    return (1.5 * torch.sin(steps_RC * 0.7 + 1) + 0.2).to(weight.device, weight.dtype)
