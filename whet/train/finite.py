"""transformers' ``logging_nan_inf_filter``, without its wait for the device after every micro-batch."""

from __future__ import annotations

import torch


class FiniteLosses:
    """Losses for a log line: one that is no finite number is replaced, by the same rule and on the device."""

    def __init__(self) -> None:
        self._since = 0
        self._total: torch.Tensor | None = None

    def begin(self) -> None:
        """A training starts, or a log line was written."""
        self._total = None

    def __call__(self, loss: torch.Tensor, step: int) -> torch.Tensor:
        """The loss of a micro-batch, or the mean of the steps since the last log line.

        Args:
            step: optimizer steps that are done.
        """
        if self._total is None:
            self._since, self._total = step, torch.zeros((), device=loss.device)
        mean = (self._total / (1 + step - self._since)).to(loss.dtype)
        kept = torch.where(loss.isfinite(), loss, mean)
        self._total += kept
        return kept
