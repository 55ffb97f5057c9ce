"""From logits to the next tokens: greedy, or drawn at random as transformers' processors and warpers would.

The order is transformers': repetition penalty (arXiv 1909.05858, section 4.1), temperature, top-k, top-p
(arXiv 1904.09751), min-p (arXiv 2407.01082).

S slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the best token; nothing else below but ``repetition_penalty`` matters then.
        top_k: only the k best; 0: all.
        top_p: only the best ones that together have this probability; 1: all.
        min_p: only tokens at least this times as probable as the best; 0: all.
        repetition_penalty: logits of tokens that were there before, prompt included, are divided (multiplied where
            negative) by this; 1: nothing.
        seed: of the first prompt; the n-th prompt (from 0) draws with seed + n, whatever stands beside it in a batch.
            None: from torch's own random numbers.

    Raises:
        ValueError: a number out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        ranges = {
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
        }
        for name, right in ranges.items():
            if not right:
                raise ValueError(f"{name} is {getattr(self, name)}; see the ranges in Sampling")

    @property
    def plain(self) -> bool:
        """Whether the best logit alone decides."""
        return self.temperature == 0 and self.repetition_penalty == 1


class Sampler:
    """Chooses tokens for the slots of a batch; a slot belongs to one prompt at a time.

    Args:
        slots: of the batch; vocab: V.
    """

    def __init__(self, sampling: Sampling, slots: int, vocab: int, device: torch.device) -> None:
        self.sampling = sampling
        self._device = device
        self._first = sampling.seed if sampling.seed is not None else int(torch.randint(2**48, ()).item())
        self._generators: dict[int, torch.Generator] = {}
        self._seen_SV: torch.Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen_SV = torch.zeros(slots, vocab, dtype=torch.bool, device=device)

    def begin(self, slot: int, number: int, prompt: Sequence[int]) -> None:
        """A slot gets the prompt of this number."""
        self._generators[slot] = torch.Generator(self._device)
        self._generators[slot].manual_seed(self._first + number)
        if self._seen_SV is not None:
            self._seen_SV[slot] = False
            self._seen_SV[slot, torch.tensor(list(prompt), device=self._device)] = True

    def keep(self, slots: Sequence[int]) -> None:
        """Only these slots, in this order; what is not in use may stand among them."""
        self._generators = {new: self._generators[old] for new, old in enumerate(slots) if old in self._generators}
        if self._seen_SV is not None:
            self._seen_SV = self._seen_SV[torch.tensor(list(slots), device=self._device)]

    def choose(self, logits_NV: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
        """Token ids (N,) from the logits of these slots."""
        if self.sampling.plain:
            return logits_NV.argmax(-1)
        if self._seen_SV is not None:
            rows = torch.tensor(list(slots), device=self._device)
            logits_NV = penalised(logits_NV, self._seen_SV[rows], self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            ids_N = logits_NV.argmax(-1)
        else:
            ids_N = self._drawn(warped(logits_NV, self.sampling), slots)
        if self._seen_SV is not None:
            self._seen_SV[rows, ids_N] = True
        return ids_N

    def _drawn(self, logits_NV: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
        """The largest of probability / exponential noise is a draw from the distribution."""
        noise_NV = torch.ones_like(logits_NV)
        for row, slot in enumerate(slots):
            if slot in self._generators:
                noise_NV[row].exponential_(generator=self._generators[slot])
        return (logits_NV.softmax(-1) / noise_NV).argmax(-1)


def penalised(logits_NV: torch.Tensor, seen_NV: torch.Tensor, penalty: float) -> torch.Tensor:
    """Logits of seen tokens made less likely."""
    lower_NV = torch.where(logits_NV < 0, logits_NV * penalty, logits_NV / penalty)
    return torch.where(seen_NV, lower_NV, logits_NV)


def warped(logits_NV: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits divided by the temperature, minus infinity where a token may not be drawn."""
    logits_NV = logits_NV / sampling.temperature
    hidden = float("-inf")
    if 0 < sampling.top_k < logits_NV.shape[-1]:
        least_N1 = logits_NV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < least_N1, hidden)
    if sampling.top_p < 1:
        ordered_NV, order_NV = logits_NV.sort(dim=-1)  # least probable first
        low_NV = ordered_NV.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        low_NV[:, -1] = False
        logits_NV = logits_NV.masked_fill(low_NV.scatter(1, order_NV, low_NV), hidden)
    if sampling.min_p > 0:
        p_NV = logits_NV.softmax(-1)
        logits_NV = logits_NV.masked_fill(p_NV < sampling.min_p * p_NV.amax(-1, keepdim=True), hidden)
    return logits_NV
