"""Sums over the tokens of each answer.

N tokens of A answers, one answer after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whet.engine.transfer import to_device


class AnswerSums:
    """Sums of the values of a batch's tokens; made before its forward, so that nothing is copied behind that.

    Args:
        tokens: of each answer; their sum is N.

    Attributes:
        tokens_A: the same, int64, on the device.
    """

    def __init__(self, tokens: Sequence[int], device: torch.device | str) -> None:
        self._longest = max(tokens)
        self.tokens_A = to_device(torch.tensor(tokens), device)
        self._place_N = None if min(tokens) == self._longest else to_device(_places(tokens), device)

    def __call__(self, values_N: torch.Tensor) -> torch.Tensor:
        """``sum_A``, always in the same order: equal values give equal sums to the bit."""
        padded = values_N
        if self._place_N is not None:
            padded = values_N.new_zeros(len(self.tokens_A) * self._longest).index_copy(0, self._place_N, values_N)
        return padded.reshape(len(self.tokens_A), self._longest).sum(1)


def _places(tokens: Sequence[int]) -> torch.Tensor:
    """Where each of the N tokens stands in a row for each answer, all rows as long as the longest."""
    longest = max(tokens)
    return torch.cat([torch.arange(number * longest, number * longest + count) for number, count in enumerate(tokens)])
