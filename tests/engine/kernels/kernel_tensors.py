"""Tensors for the kernels' tests: strided views of NaN-filled buffers, errors against float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

LOW = [torch.float32, torch.bfloat16, torch.float16]
POISON = math.nan


def view(shape: Sequence[int], dtype: torch.dtype, device: str = "cpu", gap: int = 16) -> torch.Tensor:
    """A NaN-filled view of this shape: ``gap`` elements lie between tokens (all dimensions but the last one or two)."""
    tokens, width = _tokens(shape)
    buffer = torch.full((tokens, width + gap), POISON, dtype=dtype, device=device)
    return buffer[:, :width].view(*shape)


def _tokens(shape: Sequence[int]) -> tuple[int, int]:
    """How many tokens a shape holds, and the elements of one."""
    lead = len(shape) // 2
    return math.prod(shape[:lead]), math.prod(shape[lead:])


def filled(
    shape: Sequence[int], dtype: torch.dtype, seed: int, device: str = "cpu", scale: float = 1.0
) -> torch.Tensor:
    """Normal values in such a view: the same values whatever the dtype, before rounding."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    return view(shape, dtype, device).copy_(values)


def around(tensor: torch.Tensor) -> torch.Tensor:
    """What lies between the rows of a ``view``: must stay NaN."""
    base = tensor._base
    assert base is not None
    return base[:, _tokens(tensor.shape)[1] :]


def only_written_inside(tensor: torch.Tensor) -> bool:
    return bool(around(tensor).isnan().all()) and not bool(tensor.isnan().any())


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error of a whole tensor against its float64 form."""
    exact = exact.detach().double()
    return float((found.detach().double() - exact).norm() / exact.norm().clamp_min(1e-300))


def rotary(tokens: int, pairs: int, dtype: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of two documents' positions."""
    half = tokens // 2
    position = torch.cat([torch.arange(half), torch.arange(tokens - half)]).double()
    angle = position[:, None] * 10000.0 ** (-torch.arange(pairs).double() / pairs)
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)
