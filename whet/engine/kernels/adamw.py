"""AdamW over float32 masters that lie in two halves, bfloat16 weights and what is left of them, in one pass.

As torch.optim.AdamW computes it (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019), at step t:

    g = factor * gradient
    m = m + (1 - beta1) (g - m)
    v = beta2 * v + (1 - beta2) g * g
    w = w - (lr * decay * w + lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps))

torch takes the decay off first: two roundings, the first of which loses a decay of less than half a float32 step.

N elements. Read and written once: 2 + 2 bytes of a weight, 4 + 4 of its moments, and its gradient is read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from whet.engine.kernels.dispatch import row_blocks, uses_triton, wide

LARGEST_LOW = 2**15 - 1


class AdamW(NamedTuple):
    """Settings of one update, as torch.optim.AdamW's; ``step`` counts from 1."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step: int

    def numbers(self) -> tuple[float, float, float, float, float, float]:
        """What an element meets: lr * decay, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)."""
        rate = self.lr / (1 - self.beta1**self.step)
        scale = 1 / math.sqrt(1 - self.beta2**self.step)
        return self.lr * self.weight_decay, 1 - self.beta1, self.beta2, 1 - self.beta2, rate, scale


def join(weights: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """float32 masters from bfloat16 weights and int16 lower halves of the same shape."""
    bits = weights.view(torch.int16).to(torch.int32) << 16
    return bits.add_(low).view(torch.float32)


def split_(masters: torch.Tensor, weights: torch.Tensor, low: torch.Tensor) -> None:
    """Write masters, rounded to the nearest, into ``weights`` and what is left of their bits into ``low``.

    ``join`` gives the masters back bit for bit, but for those halfway between two weights that were rounded towards
    zero: they come back one unit of float32 nearer to it, since 32768 is no int16.
    """
    weights.copy_(masters)
    rest = weights.view(torch.int16).to(torch.int32) << 16
    torch.sub(masters.view(torch.int32), rest, out=rest)
    low.copy_(rest.clamp_(max=LARGEST_LOW))


def adamw_(
    weights_N: torch.Tensor,
    low_N: torch.Tensor | None,
    gradient_N: torch.Tensor,
    mean_N: torch.Tensor,
    square_N: torch.Tensor,
    settings: AdamW,
    factor: torch.Tensor | None = None,
) -> None:
    """Update weights, lower halves and moments in place.

    Args:
        weights_N: bfloat16 with ``low_N``, else float32 (float64 for the twin): its own master.
        low_N: int16, as of ``split_``.
        gradient_N: of any floating dtype.
        mean_N, square_N: moments in float32 (float64 for float64 weights).
        factor: float32 scalar on the same device that the gradient is multiplied by; None: 1.

    Raises:
        ValueError: tensors with gaps, of different lengths, or of other dtypes.
    """
    _check(weights_N, low_N, gradient_N, mean_N, square_N)
    if not weights_N.numel():
        return
    if uses_triton(weights_N):
        from whet.engine.kernels import adamw_triton

        adamw_triton.run(weights_N, low_N, gradient_N, mean_N, square_N, settings, factor)
        return
    for part in row_blocks(weights_N.numel(), 1):
        low = None if low_N is None else low_N[part]
        _update(weights_N[part], low, gradient_N[part], mean_N[part], square_N[part], settings, factor)


def _update(
    weights: torch.Tensor,
    low: torch.Tensor | None,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    settings: AdamW,
    factor: torch.Tensor | None,
) -> None:
    decay, fresh, beta2, fresh2, rate, scale = settings.numbers()
    g = gradient.to(wide(weights.dtype))
    if factor is not None:
        g = g * factor
    w = weights if low is None else join(weights, low)
    mean.add_((g - mean) * fresh)
    square.mul_(beta2).add_(fresh2 * g * g)
    w = w - (decay * w + rate * (mean / (square.sqrt() * scale + settings.eps)))
    if low is None:
        weights.copy_(w)
    else:
        split_(w, weights, low)


def _check(weights: torch.Tensor, low: torch.Tensor | None, *others: torch.Tensor) -> None:
    halves = [] if low is None else [low]
    for tensor in (weights, *halves, *others):
        if tensor.shape != weights.shape or tensor.ndim != 1 or not tensor.is_contiguous():
            raise ValueError(
                f"tensors of shapes {tuple(weights.shape)} and {tuple(tensor.shape)}, strides {tensor.stride()}: "
                "all must be vectors of one length without gaps"
            )
    good = weights.dtype == torch.bfloat16 and low.dtype == torch.int16 if low is not None else _is_wide(weights)
    if not good or any(moment.dtype != wide(weights.dtype) for moment in others[1:]):
        kinds = [str(tensor.dtype) for tensor in (weights, *halves, *others)]
        raise ValueError(f"dtypes {', '.join(kinds)}: bfloat16 weights need int16 halves, moments are float32")


def _is_wide(weights: torch.Tensor) -> bool:
    return weights.dtype in (torch.float32, torch.float64)
