"""Encoded answers that belong together: pairs of a better and a worse one, or single ones that were judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whet.data.prepare import NOTHING_TRAINED, TOO_LONG, Excess, PreparedWriter, gather
from whet.data.prepared import Prepared, Stats
from whet.errors import DataError
from whet.text.encode import Encoded, EncodedRows

SAME = "chosen and rejected are the same tokens"


@dataclass(frozen=True)
class AnswerRows:
    """Examples of one or two documents each.

    Attributes:
        prepared: the documents; ``size`` neighbours are an example: a pair is the chosen and the rejected one.
        size: 2 for pairs, 1 for judged answers.
        good: of judged answers which are good, bool; None for pairs.
        others: of judged answers the prompts with another prompt's answer behind them; None for pairs.
        other_of: for each example its row among ``others.order``'s stored rows, -1 without one.
        dropped: examples left out, by reason.
    """

    prepared: Prepared
    size: int
    good: np.ndarray | None = None
    others: Prepared | None = None
    other_of: np.ndarray | None = None
    dropped: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.prepared) // self.size

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64."""
        lengths: np.ndarray = self.prepared.lengths.reshape(-1, self.size).sum(1)
        return lengths

    def take(self, examples: Sequence[int] | np.ndarray) -> AnswerRows:
        """These examples, in this order."""
        chosen = np.asarray(examples, dtype=np.int64)
        documents = (chosen[:, None] * self.size + np.arange(self.size)).ravel()
        return replace(
            self,
            prepared=self.prepared.take(documents),
            good=None if self.good is None else self.good[chosen],
            other_of=None if self.other_of is None else self.other_of[chosen],
        )

    def split(self, size: float, seed: int) -> tuple[AnswerRows, AnswerRows]:
        """Hold out a share (below 1) or a number of examples, as ``Prepared.split`` draws them.

        Raises:
            DataError: nothing would be left.
        """
        total = len(self)
        count = max(1, round(size * total)) if size < 1 else int(size)
        if count >= total:
            raise DataError(f"val_set_size {size:g} leaves no training rows of {total}", "a smaller share or count")
        drawn = np.random.default_rng(seed).permutation(total)
        return self.take(np.sort(drawn[count:])), self.take(np.sort(drawn[:count]))


class AnswerWriter:
    """Takes encoded documents, ``size`` to an example, and keeps or drops examples whole.

    An answer is never cut, whatever ``excess`` says of longer rows: one that lost its end would teach answers that do
    not end.

    Args:
        sequence_len: tokens of the longest document.
        excess: "error" refuses a longer one; all else leaves the example out.
    """

    def __init__(self, size: int, sequence_len: int, excess: Excess = "drop") -> None:
        self.size, self.sequence_len, self.excess = size, sequence_len, excess
        self.dropped: Counter[str] = Counter()
        self.kept: list[int] = []
        self.seen = 0
        self._writer = PreparedWriter(sequence_len, "drop")

    def add(self, rows: EncodedRows) -> None:
        """Documents of whole examples.

        Raises:
            DataError: a document too long with ``excess="error"``.
        """
        documents: list[Encoded] = []
        for start in range(0, len(rows), self.size):
            group = [rows[start + place] for place in range(self.size)]
            reason = self._problem(group)
            if reason:
                self.dropped[reason] += 1
            else:
                documents += group
                self.kept.append(self.seen)
            self.seen += 1
        if documents:
            self._writer.add(gather(documents))

    def finish(self) -> Prepared:
        """All documents that are left.

        Raises:
            DataError: none is.
        """
        if not self.kept:
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
            raise DataError(
                f"none of the {self.seen:,} examples can be trained on: {reasons or 'there are none'}",
                fix="raise sequence_len" if TOO_LONG in self.dropped else "look at the rows: whet preview CONFIG.yml",
            )
        return self._writer.finish()

    def _problem(self, group: Sequence[Encoded]) -> str:
        longest = max(len(row.ids) for row in group)
        if longest > self.sequence_len:
            if self.excess == "error":
                raise DataError(
                    f"example {self.seen + 1} has a text of {longest} tokens",
                    f"at most {self.sequence_len} (sequence_len)",
                    'raise sequence_len, or set excess_length_strategy to "drop"',
                )
            return TOO_LONG
        if not all(row.trained for row in group):
            return NOTHING_TRAINED
        return SAME if len(group) == 2 and group[0].ids == group[1].ids else ""


def joined(parts: Sequence[AnswerRows]) -> AnswerRows:
    """The examples of several sources, one after the other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    judged = first.good is not None
    others = [part.others for part in parts if part.others is not None]
    return AnswerRows(
        _joined([part.prepared for part in parts]),
        first.size,
        np.concatenate([part.good for part in parts if part.good is not None]) if judged else None,
        _joined(others) if others else None,
        _other_places(parts) if judged else None,
    )


def _other_places(parts: Sequence[AnswerRows]) -> np.ndarray:
    found, before = [], 0
    for part in parts:
        assert part.other_of is not None
        found.append(np.where(part.other_of >= 0, part.other_of + before, -1))
        before += len(part.others) if part.others is not None else 0
    return np.concatenate(found)


def _joined(parts: Sequence[Prepared]) -> Prepared:
    """Sets whose rows all are in the order in which they are stored."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    stats = [part.stats for part in parts]
    dropped: Counter[str] = Counter()
    for each in stats:
        dropped.update(each.dropped)
    return Prepared(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.mask for part in parts]),
        np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        np.concatenate([part.trained for part in parts]),
        np.arange(len(sizes)),
        Stats(
            sum(each.rows for each in stats),
            sum(each.tokens for each in stats),
            sum(each.trained_tokens for each in stats),
            max(each.longest_row for each in stats),
            sum(each.truncated for each in stats),
            dict(dropped),
            sum(each.quoted for each in stats),
        ),
    )
