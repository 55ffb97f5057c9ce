"""The order in which items are trained: seeded, another one in each epoch, the same after a resume.

The order of epoch e depends on the seed, e and the number (or lengths) of the items only. So a run that stopped goes on
by asking for the same epoch and leaving out the items that it has seen; nothing else has to be stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

POOL_BATCHES = 50  # batches whose rows are sorted together: enough for like lengths, few enough to stay random


class SeededSampler(Sampler[int]):
    """All items in random order.

    Args:
        lengths: tokens of each item; given, items of like length come together (for padded batches), and the longest
            batch comes first in the first epoch, so that a lack of memory shows at once.
        batch_size: items of a batch; read with ``lengths`` only.
    """

    def __init__(
        self, size: int, seed: int, *, lengths: Sequence[int] | np.ndarray | None = None, batch_size: int = 1
    ) -> None:
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        self.epoch = 0
        self.done = 0
        self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """Item numbers in this epoch's order."""
        generator = np.random.default_rng((self.seed, self.epoch))
        shuffled = generator.permutation(self.size)
        return shuffled if self.lengths is None else self._grouped(shuffled, self.lengths, generator)

    def _grouped(self, shuffled: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        pool = POOL_BATCHES * self.batch_size
        pools = [shuffled[i : i + pool] for i in range(0, self.size, pool)]
        rows = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in pools] or [shuffled])
        full = self.size // self.batch_size * self.batch_size
        batches = rows[:full].reshape(-1, self.batch_size)
        batches = batches[generator.permutation(len(batches))]
        if self.epoch == 0 and len(batches):
            longest = int(lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.ravel(), rows[full:]])

    def __iter__(self) -> Iterator[int]:
        self.done, self._start = self._start, 0
        for item in self.order()[self.done :].tolist():
            self.done += 1
            yield item

    def __len__(self) -> int:
        return self.size

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands."""
        return {"seed": self.seed, "epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there: the next iteration gives the rest of that epoch."""
        self.seed, self.epoch, self._start = state["seed"], state["epoch"], state["done"]
