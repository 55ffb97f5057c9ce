"""The documents of a flattened micro-batch, and the parts of it that one attention kernel takes at once.

A document may begin with tokens of the document before it: two answers to one prompt. Such tokens are there once among
the T tokens; attention alone looks at whole documents, so that it has S >= T rows (``attention_shared.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch

from whet.engine.transfer import to_device

Kind = Literal["each", "fa2", "cudnn"]


class Scores(NamedTuple):
    """How scores are made: ``q · k * scale``, then ``softcap * tanh(· / softcap)``; seen within ``window`` tokens."""

    scale: float
    softcap: float | None = None
    window: int | None = None


class Rows(NamedTuple):
    """Where the T tokens stand among the S rows that attention looks at.

    Attributes:
        tokens_1S: the token of each row.
        first_1S: the same, -1 for rows of tokens that have one before.
        rows_JT: the rows of each token, the first one first; -1 where it has fewer than J.
    """

    tokens_1S: torch.Tensor
    first_1S: torch.Tensor
    rows_JT: torch.Tensor


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
        lengths: tokens of each document, on the host; their sum is T, or S where documents share tokens.
        cu: (documents + 1) int32, on the device of the batch: 0 and the running sums of ``lengths``.
        longest: the largest length.
        rows: where documents share tokens; None: S is T.
    """

    lengths: tuple[int, ...]
    cu: torch.Tensor
    longest: int
    rows: Rows | None = None
    _cu_of: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu", shared: Sequence[int] = ()) -> Documents:
        """From host lengths alone: no synchronisation.

        Args:
            shared: for each document how many of its first tokens are those of the document before it; empty: none.

        Raises:
            ValueError: no document, one without tokens of its own, or one that shares more than there is.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError(f"every document needs at least one token: {tuple(lengths)[:20]}")
        cu = to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)
        rows = _rows(lengths, shared, device) if any(shared) else None
        return cls(tuple(lengths), cu, max(lengths), rows)

    @property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths) if self.rows is None else self.rows.rows_JT.shape[1]

    def cu_of(self, part: Part) -> torch.Tensor:
        """``cu`` of the part's documents by themselves, beginning at 0; made once."""
        key = (part.first, part.last)
        if key == (0, len(self.lengths)):
            return self.cu
        if key not in self._cu_of:
            self._cu_of[key] = self.cu[part.first : part.last + 1] - self.cu[part.first]
        return self._cu_of[key]


def documents_of(
    position_ids_BT: torch.Tensor, lengths: Sequence[int] | None = None, shared: Sequence[int] = ()
) -> Documents:
    """The documents of a batch whose positions count up by one inside a document; every row begins one.

    Args:
        position_ids_BT: as the loader makes them: they restart with each document, at 0, or at the number of tokens
            that it shares with the document before it.
        lengths: of all documents, row after row, if the host knows them: then nothing is read back from the device.
        shared: as of ``Documents.of``, with ``lengths``.

    Raises:
        ValueError: ``lengths`` do not add up to the batch.
    """
    total = position_ids_BT.numel()
    if lengths is None:
        lengths, shared = spans_of(position_ids_BT)
    if sum(lengths) - sum(shared) != total:
        raise ValueError(f"documents of {sum(lengths) - sum(shared)} tokens in a batch of {total}")
    return Documents.of(lengths, position_ids_BT.device, shared)


def spans_of(position_ids_BT: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``lengths`` and ``shared`` of ``Documents.of`` from the positions; ``shared`` is empty where nothing is."""
    starts_BT = torch.ones_like(position_ids_BT, dtype=torch.bool)
    starts_BT[:, 1:] = position_ids_BT[:, 1:] != position_ids_BT[:, :-1] + 1
    places = starts_BT.flatten().nonzero().flatten()
    begins = position_ids_BT.flatten().index_select(0, places)
    begins = begins.masked_fill(places % position_ids_BT.shape[1] == 0, 0)  # a row begins with a whole document
    shared = tuple(begins.tolist())
    ends = [*places.tolist(), position_ids_BT.numel()]
    lengths = tuple(end - start + more for (start, end), more in zip(pairwise(ends), shared, strict=True))
    return lengths, shared if any(shared) else ()


def _rows(lengths: Sequence[int], shared: Sequence[int], device: torch.device | str) -> Rows:
    for length, common, before in zip(lengths, shared, (0, *lengths), strict=False):
        if not 0 <= common < length or common > before:
            raise ValueError(f"a document of {length} tokens shares {common} with the one before it, of {before}")
    total = sum(lengths) - sum(shared)
    documents: list[torch.Tensor] = []  # tokens of each
    firsts: list[torch.Tensor] = []
    places: list[torch.Tensor] = []  # rows of each token: the first, the second, ...
    token = row = depth = 0
    for length, common in zip(lengths, shared, strict=True):
        before = documents[-1][:common] if common else torch.empty(0, dtype=torch.int64)
        own = torch.arange(token, token + length - common)
        documents.append(torch.cat([before, own]))
        firsts += [torch.full_like(before, -1), own]
        depth = depth + 1 if common else 0
        while len(places) <= depth:
            places.append(torch.full((total,), -1))
        places[depth][before] = torch.arange(row, row + common)
        places[0][own] = torch.arange(row + common, row + length)
        token, row = token + length - common, row + length
    found = (torch.cat(documents)[None], torch.cat(firsts)[None], torch.stack(places))
    return Rows(*(to_device(t, device) for t in found))
