"""Batches of answers: examples packed into rows, every answer a document of its own behind its prompt.

Documents do not see each other, so that a pair costs its prompt twice; a prompt that both answers share would be a
branch mask in the engine's attention, and everything here would stay as it is but ``_item``'s documents.

A answers in a batch of B rows of T tokens, N positions that predict a token of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from whet.data.answer_rows import AnswerRows
from whet.data.loader import collate, item_of
from whet.data.packing import pack

Item = dict[str, Any]


@dataclass(frozen=True)
class AnswerLayout:
    """What the host knows of a batch's answers, in the order of their tokens.

    Attributes:
        tokens: trained tokens of each answer; their sum is N.
        documents: number of each answer's document in the data set.
        examples: pairs, or judged answers.
        good: of judged answers which are good; None for pairs.
    """

    tokens: tuple[int, ...]
    documents: tuple[int, ...]
    examples: int
    good: tuple[bool, ...] | None = None


class AnswerDataset(Dataset[Item]):
    """Bins of whole examples.

    Item: ``input_ids``, ``labels``, ``position_ids`` (each T, int64), ``answers``: an ``AnswerLayout``; of judged
    answers also ``others``: an item with other prompts' answers, or None.

    Args:
        rows: pairs or judged answers.
        budget: tokens of a bin; None: one example in each.

    Attributes:
        bins: numbers of the documents of each item.
        prepared: the documents.
        reference: for each document the log-probabilities of its trained tokens under a reference, where they are
            computed ahead; items then have ``reference``.
    """

    def __init__(self, rows: AnswerRows, budget: int | None = None) -> None:
        self.rows, self.prepared = rows, rows.prepared
        lengths = rows.lengths
        groups = [[n] for n in range(len(rows))] if budget is None else pack(lengths, max(budget, int(lengths.max())))
        self.groups = groups
        self.bins = [[n * rows.size + place for n in group for place in range(rows.size)] for group in groups]
        self.reference: list[torch.Tensor] | None = None
        self._trained = self.prepared.trained[self.prepared.order]

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> Item:
        documents, examples = self.bins[index], self.groups[index]
        item: Item = dict(item_of([self.prepared.row(number) for number in documents]))
        good = self.rows.good
        item["answers"] = AnswerLayout(
            tuple(int(self._trained[number]) for number in documents),
            tuple(documents),
            len(examples),
            None if good is None else tuple(bool(good[n]) for n in examples),
        )
        if self.rows.others is not None:
            item["others"] = self._others(examples)
        return self._with_reference(item)

    def _others(self, examples: Sequence[int]) -> Item | None:
        assert self.rows.others is not None and self.rows.other_of is not None
        others = self.rows.others
        places = [int(self.rows.other_of[n]) for n in examples if self.rows.other_of[n] >= 0]
        if not places:
            return None
        item: Item = dict(item_of([others.row(place) for place in places]))
        first = len(self.prepared)  # numbers of other answers stand behind those of the answers
        tokens = tuple(int(others.trained[place]) for place in places)
        item["answers"] = AnswerLayout(tokens, tuple(first + place for place in places), len(places))
        return self._with_reference(item)

    def _with_reference(self, item: Item) -> Item:
        if self.reference is not None:
            layout: AnswerLayout = item["answers"]
            item["reference"] = torch.cat([self.reference[number] for number in layout.documents])
        return item

    def documents(self) -> int:
        """How many documents have a number: the answers, and other prompts' answers."""
        return len(self.prepared) + (len(self.rows.others) if self.rows.others is not None else 0)


def collate_answers(items: Sequence[Item], pad_id: int = 0) -> dict[str, Any]:
    """A batch: as ``whet.data.loader.collate``, with ``answers`` of all rows together, and ``others`` as a batch."""
    batch = collate(items, pad_id)
    found: list[AnswerLayout] = [item["answers"] for item in items]
    batch["answers"] = AnswerLayout(
        tuple(tokens for layout in found for tokens in layout.tokens),
        tuple(number for layout in found for number in layout.documents),
        sum(layout.examples for layout in found),
        None if found[0].good is None else tuple(good for layout in found for good in layout.good or ()),
    )
    if "reference" in items[0]:
        batch["reference"] = torch.cat([item["reference"] for item in items])
    others = [item["others"] for item in items if item.get("others") is not None]
    if others:
        batch["others"] = collate_answers(others, pad_id)
    return batch
