"""Cases of AdamW over masters in two halves: the twin, the kernel in Triton's interpreter, and on a GPU.

Run as a program, with TRITON_INTERPRET=1, it checks all cases of the kernel on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from whet.engine.kernels.adamw import AdamW, _update, join

SIZES = (1, 7, 1023, 1025, 5003)
STEPS = 4
LEFT, RIGHT = 3, 5  # elements before and behind, which nobody may touch: starts that are not aligned either
KINDS = list(product((torch.bfloat16, torch.float32), (torch.bfloat16, torch.float32), (False, True), SIZES))


class Buffers:
    """Weights, lower halves and moments within larger, poisoned buffers."""

    def __init__(self, size: int, dtype: torch.dtype, device: str) -> None:
        draw = torch.Generator().manual_seed(size)
        start = (0.02 * torch.randn(size, generator=draw)).to(dtype)
        self.all = [self._around(start, float("nan"), device)]
        if dtype == torch.bfloat16:
            half = torch.randint(-(2**15), 2**15, (size,), dtype=torch.int16, generator=draw)
            self.all.append(self._around(half, 77, device))
        self.all += [self._around(torch.zeros(size), float("nan"), device) for _ in range(2)]
        self.before = [buffer.clone() for buffer in self.all]
        parts = [buffer[LEFT:-RIGHT] for buffer in self.all]
        self.weights, self.mean, self.square = parts[0], *parts[-2:]
        self.low = parts[1] if dtype == torch.bfloat16 else None

    @staticmethod
    def _around(values: torch.Tensor, poison: float, device: str) -> torch.Tensor:
        edges = [torch.full((n,), poison, dtype=values.dtype) for n in (LEFT, RIGHT)]
        return torch.cat([edges[0], values, edges[1]]).to(device)

    def masters(self) -> torch.Tensor:
        return self.weights.clone() if self.low is None else join(self.weights, self.low)

    def spoiled(self) -> bool:
        """Whether something beside the parts was written."""
        pairs = [(a[part], b[part]) for a, b in zip(self.all, self.before, strict=True) for part in _edges()]
        return any(not torch.equal(a.nan_to_num(5.0), b.nan_to_num(5.0)) for a, b in pairs)


def _edges() -> tuple[slice, slice]:
    return slice(0, LEFT), slice(-RIGHT, None)


def gradients(size: int, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(size + 1)
    found = []
    for step in range(STEPS):
        wide = torch.randn(size, generator=draw) * 10.0 ** torch.randint(-6, 1, (size,), generator=draw)
        wide[::3] = 0.0 if step else wide[::3]
        found.append(wide.to(dtype).to(device))
    return found


def settings(step: int) -> AdamW:
    return AdamW(lr=1e-3 / step, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, step=step)


def problems(
    update: Callable[..., None], weights: torch.dtype, gradient: torch.dtype, scaled: bool, size: int, device: str
) -> list[str]:
    """What is wrong after some steps, against the twin in float64."""
    mine = Buffers(size, weights, device)
    exact: list[Any] = [mine.masters().double(), None, torch.zeros(size, device=device).double()]
    exact.append(exact[-1].clone())
    factor = torch.tensor(0.37, device=device) if scaled else None
    for step, one in enumerate(gradients(size, gradient, device), start=1):
        update(mine.weights, mine.low, one, mine.mean, mine.square, settings(step), factor)
        _update(exact[0], None, one, exact[2], exact[3], settings(step), factor)
    wrong = []
    ends = {"masters": (mine.masters(), exact[0], 1e-9), "m": (mine.mean, exact[2], 1e-7)}  # terms of m cancel out
    for name, (found, want, least) in (ends | {"v": (mine.square, exact[3], 1e-12)}).items():
        off = (found.double() - want).abs()
        if not (off <= 2**-21 * want.abs() + least).all():
            wrong.append(f"{name} off by {float(off.max()):.1e}")
    if mine.low is not None and not torch.equal(mine.weights, mine.masters().bfloat16()):
        wrong.append("weights are not the nearest to their masters")
    if mine.spoiled():
        wrong.append("something beside was written")
    return wrong


def beside_the_twin(update: Callable[..., None], device: str) -> float:
    """The share of masters that differ from the twin's by a bit or more, after one step."""
    mine, twin = (Buffers(5003, torch.bfloat16, device) for _ in range(2))
    one = gradients(5003, torch.bfloat16, device)[0]
    for buffers, function in ((mine, update), (twin, _update)):
        function(buffers.weights, buffers.low, one, buffers.mean, buffers.square, settings(1), None)
    return float((mine.masters() != twin.masters()).float().mean())


def odd_numbers(update: Callable[..., None], device: str) -> list[torch.Tensor]:
    """Masters after a gradient that is no number, one that is infinite, and with the largest weight."""
    found = Buffers(3, torch.bfloat16, device)
    found.weights[2], found.low[2] = torch.finfo(torch.bfloat16).max, 0  # type: ignore[index]
    given = torch.tensor([float("nan"), float("inf"), 0.0], dtype=torch.bfloat16, device=device)
    update(found.weights, found.low, given, found.mean, found.square, settings(1), None)
    return [found.masters().cpu(), found.weights.float().cpu()]


def check_all(update: Callable[..., None], device: str) -> None:
    for kind in KINDS:
        assert problems(update, *kind, device) == [], kind
    for values in odd_numbers(update, device):
        assert values[:2].isnan().all() and values[2].isfinite(), values


if __name__ == "__main__":
    from whet.engine.kernels import adamw_triton

    check_all(adamw_triton.run, "cpu")
    share = beside_the_twin(adamw_triton.run, "cpu")
    assert share < 0.03, share  # by one rounding
    print(f"every case is right; {share:.2%} of the masters differ from the twin's")
