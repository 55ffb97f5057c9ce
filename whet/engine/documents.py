"""The documents of a flattened micro-batch, and the parts of it that one attention kernel takes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch

Kind = Literal["each", "fa2", "cudnn"]


class Scores(NamedTuple):
    """How scores are made: ``q · k * scale``, then ``softcap * tanh(· / softcap)``; seen within ``window`` tokens."""

    scale: float
    softcap: float | None = None
    window: int | None = None


class Part(NamedTuple):
    """Neighbouring documents first to last - 1, tokens start to stop - 1, and the kernel for them."""

    kind: Kind
    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class Documents:
    """Where the documents of a flattened micro-batch begin and end.

    Attributes:
        lengths: tokens of each document, on the host; their sum is T.
        cu: (documents + 1) int32, on the device of the batch: 0 and the running sums of ``lengths``.
        longest: the largest length.
    """

    lengths: tuple[int, ...]
    cu: torch.Tensor
    longest: int
    _cu_of: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Documents:
        """From host lengths alone: no synchronisation.

        Raises:
            ValueError: no document, or one without tokens.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"every document needs at least one token: {tuple(lengths)[:20]}")
        cu = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        if torch.device(device).type == "cuda":
            cu = cu.pin_memory().to(device, non_blocking=True)
        return cls(tuple(lengths), cu.to(device), max(lengths))

    @property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    def cu_of(self, part: Part) -> torch.Tensor:
        """``cu`` of the part's documents by themselves, beginning at 0; made once."""
        key = (part.first, part.last)
        if key == (0, len(self.lengths)):
            return self.cu
        if key not in self._cu_of:
            self._cu_of[key] = self.cu[part.first : part.last + 1] - self.cu[part.first]
        return self._cu_of[key]


def documents_of(position_ids_BT: torch.Tensor, lengths: Sequence[int] | None = None) -> Documents:
    """The documents of a batch whose positions count up by one inside a document; every row begins one.

    Args:
        position_ids_BT: as the loader makes them: they restart at 0 with each document.
        lengths: of all documents, row after row, if the host knows them: then nothing is read back from the device.

    Raises:
        ValueError: ``lengths`` do not add up to the batch.
    """
    total = position_ids_BT.numel()
    if lengths is None:
        starts_BT = torch.ones_like(position_ids_BT, dtype=torch.bool)
        starts_BT[:, 1:] = position_ids_BT[:, 1:] != position_ids_BT[:, :-1] + 1
        starts = [*starts_BT.flatten().nonzero().flatten().tolist(), total]
        lengths = [end - start for start, end in pairwise(starts)]
    if sum(lengths) != total:
        raise ValueError(f"documents of {sum(lengths)} tokens in a batch of {total}")
    return Documents.of(lengths, position_ids_BT.device)
