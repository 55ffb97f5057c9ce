"""The state of a batch that is being continued, and one step of it: on a GPU a CUDA graph, on a CPU the plain calls.

S slots, V vocabulary.
"""

from __future__ import annotations

import torch

from whet.engine.cache import Cache
from whet.engine.decode import CPU_ROWS, Decoder

BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # slots of a captured graph
POSITIONS = 512  # the cache of a GPU is a multiple of this, so that graphs are used again


def slots_for(wanted: int, device: torch.device) -> int:
    """Slots of a batch of ``wanted`` sequences: a bucket on a GPU, a multiple of ``CPU_ROWS`` on a CPU."""
    if device.type == "cpu":
        return -(-wanted // CPU_ROWS) * CPU_ROWS
    return next((bucket for bucket in BUCKETS if bucket >= wanted), wanted)


class Steps:
    """Slots with their newest tokens.

    Args:
        greedy: whether the best token of a step is its next one without asking (then all is one graph).

    Attributes:
        ids_S: the newest token of each slot, which the next step reads.
        positions_S: where it stands. Slots without a sequence count on too.
        logits_SV: of the last step, float32.
    """

    def __init__(self, decoder: Decoder, slots: int, positions: int, *, greedy: bool) -> None:
        if decoder.device.type != "cpu":
            positions = -(-positions // POSITIONS) * POSITIONS
        self.decoder, self.greedy = decoder, greedy
        self.cache: Cache = decoder.cache(slots, positions)
        self.ids_S = torch.zeros(slots, dtype=torch.int64, device=decoder.device)
        self.positions_S = torch.zeros(slots, dtype=torch.int64, device=decoder.device)
        self.logits_SV = torch.empty(0)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._tables = decoder.tables(self.cache.positions)  # a graph reads them
        self._pointers = decoder.pointers()

    def fits(self, slots: int, positions: int, *, greedy: bool) -> bool:
        """Whether this state can be used again for such a batch."""
        room = self.cache.slots == slots and positions <= self.cache.positions
        return room and greedy == self.greedy and self.decoder.pointers() == self._pointers

    def begin(self, slot: int, position: int, token: torch.Tensor | int) -> None:
        """A slot goes on with a token (a number, or a tensor of no dimension) at a position."""
        self.ids_S[slot] = token
        self.positions_S[slot] = position

    def run(self, used: int) -> None:
        """One step; sets ``logits_SV``, and with ``greedy`` also ``ids_S``.

        Args:
            used: positions of the cache that any sequence looks at.
        """
        if self.decoder.device.type == "cpu":
            self._step(used)
            return
        if self._graph is None:
            self._graph = self._captured()
        self._graph.replay()

    def grown(self, positions: int) -> Steps:
        """The same sequences with room for more tokens; this state is of no more use.

        Raises:
            ModelError: the memory has no room for both caches at once.
        """
        larger = Steps(self.decoder, self.cache.slots, positions, greedy=self.greedy)
        larger.cache.copy_from(self.cache)
        larger.ids_S.copy_(self.ids_S)
        larger.positions_S.copy_(self.positions_S)
        return larger

    def keep(self, slots: list[int]) -> None:
        """Only these slots, in this order (on a CPU)."""
        rows = torch.tensor(slots, device=self.decoder.device)
        self.cache.keep(rows)
        self.ids_S, self.positions_S = self.ids_S[rows], self.positions_S[rows]

    def _step(self, used: int | None) -> None:
        self.positions_S.clamp_(max=self.cache.positions - 1)  # slots without a sequence
        self.logits_SV = self.decoder.step(self.ids_S, self.positions_S, self.cache, used)
        if self.greedy:
            self.ids_S.copy_(self.logits_SV.argmax(-1))
        self.positions_S.add_(1)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The step as a graph. It is run before, to compile kernels: what that writes into the cache is written again
        by the first step."""
        before = self.ids_S.clone(), self.positions_S.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(None)
                self.ids_S.copy_(before[0])
                self.positions_S.copy_(before[1])
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(None)
        return graph
