"""Many small copies with a factor each, as one kernel: adapters into the operands of the projection groups.

A model of 32 layers has about 450 matrices A and B; copying them one by one takes 9 to 16 ms on the host after every
optimizer step (one H200, the prototype's README), their bytes less than 0.2 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from whet.engine.kernels.dispatch import uses_triton

BLOCK = 2048  # elements of one program
LARGEST = 1 << 31

Copy = tuple[torch.Tensor, torch.Tensor, float]  # target (n, m), source (n, m), factor: target = factor * source


class Scatter:
    """Copies that are the same every time, with their addresses on the device.

    Args:
        copies: rows of targets and sources may be strided, values of a row not. Targets do not overlap. Sources may be
            given other memory later (``parameter.data = ...``): that is noticed.
    """

    def __init__(self, copies: Sequence[Copy]) -> None:
        self._copies = [copy for copy in copies if copy[0].numel()]
        self._addresses: list[int] = []
        self._tables: list[Any] = []

    @torch.no_grad()
    def run(self) -> None:
        """target = factor * source, computed in float32 (float64 for float64), for all of them."""
        if not self._copies or not all(_fits(target, source) for target, source, _ in self._copies):
            for target, source, factor in self._copies:
                target.copy_(source if factor == 1.0 else source.detach() * factor)
            return
        from whet.engine.kernels import scatter_triton

        addresses = [source.data_ptr() for _, source, _ in self._copies]
        if addresses != self._addresses:
            self._addresses, self._tables = addresses, list(scatter_triton.tables(self._copies, BLOCK))
        for table in self._tables:
            scatter_triton.run(table, BLOCK)


def _fits(target: torch.Tensor, source: torch.Tensor) -> bool:
    gapless = target.stride(-1) == source.stride(-1) == 1 and source.numel() < LARGEST
    return gapless and source.dtype != torch.float64 and uses_triton(target) and source.device == target.device
