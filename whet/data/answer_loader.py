"""Batches of answers: every answer is a document of its own behind its prompt, and documents do not see each other.

A prompt that the two answers of a pair share is there once: [prompt | chosen | rejected], where the positions of the
rejected answer go on from the prompt's (``Layout.shared``, ``whet/data/shared_prompts.py``).

A answers in a batch of B rows of T tokens, N positions that predict a token of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from whet.data.answer_rows import AnswerRows
from whet.data.loader import collate, item_of
from whet.data.prepared import Prepared
from whet.data.shared_prompts import shared_prompts

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
    """One example an item.

    Item: ``input_ids``, ``labels``, ``position_ids`` (each T, int64), ``answers``: an ``AnswerLayout``; of judged
    answers also ``others``: an item with another prompt's answer, where there is one.

    Args:
        rows: pairs or judged answers.

    Attributes:
        share: store a prompt that both answers share once; False where attention cannot look at it twice.
        shared: for each item how many tokens could be shared.
        bins: numbers of the documents of each item.
        prepared: the documents.
        reference: for each document the log-probabilities of its trained tokens under a reference, where they are
            computed ahead; items then have ``reference``.
    """

    def __init__(self, rows: AnswerRows) -> None:
        self.rows, self.prepared = rows, rows.prepared
        self.bins = [list(range(n * rows.size, (n + 1) * rows.size)) for n in range(len(rows))]
        self.share, self.shared = True, shared_prompts(rows.prepared, rows.size)
        self.reference: list[torch.Tensor] | None = None
        self._trained = self.prepared.trained[self.prepared.order]

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> Item:
        documents = self.bins[index]
        shared = int(self.shared.tokens[index]) if self.share else 0
        item: Item = dict(item_of([self.prepared.row(number) for number in documents], shared))
        good = self.rows.good
        item["answers"] = AnswerLayout(
            tuple(int(self._trained[number]) for number in documents),
            tuple(documents),
            1,
            None if good is None else (bool(good[index]),),
        )
        if self.rows.others is not None and self.rows.other_of is not None and self.rows.other_of[index] >= 0:
            item["others"] = self._other(self.rows.others, int(self.rows.other_of[index]))
        return self._with_reference(item)

    def _other(self, others: Prepared, place: int) -> Item:
        item: Item = dict(item_of([others.row(place)]))
        number = len(self.prepared) + place  # numbers of other answers stand behind those of the answers
        item["answers"] = AnswerLayout((int(others.trained[place]),), (number,), 1)
        return self._with_reference(item)

    def _with_reference(self, item: Item) -> Item:
        if self.reference is not None:
            layout: AnswerLayout = item["answers"]
            item["reference"] = torch.cat([self.reference[number] for number in layout.documents])
        return item

    def part(self, examples: Sequence[int] | np.ndarray) -> AnswerDataset:
        """These examples, with their reference where it is there."""
        found = AnswerDataset(self.rows.take(examples))
        found.share = self.share
        if self.reference is not None:
            bins = [self.bins[int(example)] for example in examples]
            others = self.reference[len(self.prepared) :]  # other prompts' answers stay as they are
            found.reference = [*(self.reference[number] for group in bins for number in group), *others]
        return found

    @property
    def spared(self) -> np.ndarray:
        """For each item the tokens that need not be computed a second time, int64."""
        return self.shared.tokens if self.share else np.zeros_like(self.shared.tokens)

    def documents(self) -> int:
        """How many documents have a number: the answers, and other prompts' answers."""
        return len(self.prepared) + (len(self.rows.others) if self.rows.others is not None else 0)


class CollateAnswers:
    """Makes batches of items; call it with a list of them.

    Args:
        pad_id: fills rows.
        flat: put all items into one row, without padding. The engine reads documents one after the other anyway; a
            model's own attention would compare every token of the row with every other one.
    """

    def __init__(self, pad_id: int = 0, *, flat: bool = False) -> None:
        self.pad_id, self.flat = pad_id, flat

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        return collate_answers(items, self.pad_id, flat=self.flat)


def collate_answers(items: Sequence[Item], pad_id: int = 0, *, flat: bool = False) -> dict[str, Any]:
    """A batch: as ``whet.data.loader.collate``, with ``answers`` of all rows together, and ``others`` as a batch."""
    names = ("input_ids", "labels", "position_ids")
    rows = [{name: torch.cat([item[name] for item in items]) for name in names}] if flat else items
    batch = collate(rows, pad_id)
    batch["answers"] = join_answers([item["answers"] for item in items])
    if "reference" in items[0]:
        batch["reference"] = torch.cat([item["reference"] for item in items])
    others = [item["others"] for item in items if "others" in item]
    if others:
        batch["others"] = collate_answers(others, pad_id, flat=flat)
    return batch


def join_answers(layouts: Sequence[AnswerLayout]) -> AnswerLayout:
    """Of several batches, one after the other."""
    return AnswerLayout(
        tuple(tokens for layout in layouts for tokens in layout.tokens),
        tuple(number for layout in layouts for number in layout.documents),
        sum(layout.examples for layout in layouts),
        None if layouts[0].good is None else tuple(good for layout in layouts for good in layout.good or ()),
    )
