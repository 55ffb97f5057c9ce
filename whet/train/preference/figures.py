"""Means over all examples between two log lines, kept on the device until somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch


class Figures:
    """Sums and counts by name."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, torch.Tensor]) -> None:
        """Values of one micro-batch."""
        for name, values in figures.items():
            if values.numel():
                total = values.detach().double().sum() if values.device.type != "mps" else values.detach().sum()
                self._sums[name] = self._sums[name] + total if name in self._sums else total
                self._counts[name] = self._counts.get(name, 0) + values.numel()

    def way_back(self) -> Callable[[], None]:
        """What brings the figures back to what they are now."""
        sums, counts = dict(self._sums), dict(self._counts)

        def back() -> None:
            self._sums, self._counts = dict(sums), dict(counts)

        return back

    def take(self) -> dict[str, float]:
        """The means so far; counting begins anew."""
        totals = torch.stack(list(self._sums.values())).tolist() if self._sums else []  # one wait for all
        found = {name: total / self._counts[name] for name, total in zip(self._sums, totals, strict=True)}
        if "rewards/margins" not in found and {"rewards/chosen", "rewards/rejected"} <= found.keys():
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        self._sums, self._counts = {}, {}
        return found
