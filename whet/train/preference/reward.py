"""Reward models: a number for each answer, higher for the one that people preferred (Bradley & Terry 1952).

    loss = -log σ(r(chosen) - r(rejected)) + c (r(chosen) + r(rejected))²

The first term is that of Ouyang et al. 2022 (arXiv 2203.02155, eq. 1); the second, with c =
``center_rewards_coefficient``, holds the rewards around 0 (Eisenstein et al. 2023, arXiv 2312.09244, eq. 2). The loss
knows differences only, so that without it their common height is left to chance.

r is a linear head on the hidden state of the text's last token, as transformers' ``...ForSequenceClassification``
with one label computes it: the last token that is not the pad token. It is computed in float32, also where the weights
are bfloat16, whose steps would be as large as usual margins.

P pairs, A = 2 P texts (chosen, rejected, chosen, ...), D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from whet.data.answer_rows import AnswerRows
from whet.data.loader import collate, item_of
from whet.models.scores import score_layer
from whet.train.forward import Batch, Forward, Way
from whet.train.preference.answers import Outcome, reward_figures
from whet.train.preference.figures import Figures


@dataclass(frozen=True)
class Reward:
    """The loss of pairs.

    Args:
        center: c, of the squared sum of a pair's rewards; 0.01 is usual.
    """

    center: float = 0.0

    def __call__(self, chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> Outcome:
        """The loss of each pair and its figures.

        Args:
            chosen_P, rejected_P: rewards of the two answers.
        """
        loss_P = -F.logsigmoid(chosen_P - rejected_P)
        if self.center:
            loss_P = loss_P + self.center * (chosen_P + rejected_P) ** 2
        return Outcome(loss_P, reward_figures(chosen_P, rejected_P))


class RewardDataset(Dataset[Batch]):
    """One pair an item: two documents, as ``whet.data.loader.item_of`` joins them, and ``ends``, their scored tokens.

    Args:
        pad_id: a token that is never scored.

    Attributes:
        bins: numbers of the documents of each item. prepared: the documents.
    """

    def __init__(self, rows: AnswerRows, pad_id: int) -> None:
        self.rows, self.prepared, self.pad_id = rows, rows.prepared, pad_id
        self.bins = [[2 * pair, 2 * pair + 1] for pair in range(len(rows))]

    def part(self, examples: Sequence[int] | np.ndarray) -> RewardDataset:
        """These pairs."""
        return RewardDataset(self.rows.take(examples), self.pad_id)

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, index: int) -> Batch:
        documents = [self.prepared.row(number) for number in self.bins[index]]
        starts = np.cumsum([0, len(documents[0][0])])
        ends = [int(start) + _last(ids, self.pad_id) for start, (ids, _) in zip(starts, documents, strict=True)]
        return {**item_of(documents), "ends": ends}


class CollateRewards:
    """Batches of pairs: as ``whet.data.loader.collate``, with ``ends`` as A positions among the B * T of the batch.

    Args:
        flat: put all items into one row, without padding (``whet.data.answer_loader.CollateAnswers``).
    """

    def __init__(self, pad_id: int, *, flat: bool = False) -> None:
        self.pad_id, self.flat = pad_id, flat

    def __call__(self, items: Sequence[Batch]) -> Batch:
        names = ("input_ids", "labels", "position_ids")
        rows = [{name: torch.cat([item[name] for item in items]) for name in names}] if self.flat else items
        sizes = [len(item["input_ids"]) for item in items]
        begins = np.cumsum([0, *sizes[:-1]]) if self.flat else np.arange(len(items)) * max(sizes)
        batch = collate([{name: row[name] for name in names} for row in rows], self.pad_id)
        ends = [int(begin) + end for begin, item in zip(begins, items, strict=True) for end in item["ends"]]
        return {**batch, "ends": torch.tensor(ends)}


class RewardObjective:
    """The loss that a trainer asks for (``whet.train.forward.Objective``)."""

    def __init__(self, method: Reward) -> None:
        self.method = method
        self.training, self.validation = Figures(), Figures()

    def prepare(
        self,
        forward: Forward,
        dataset: Any,
        load: Callable[[list[Any]], Batch],
        way: Way,
    ) -> None:
        """Nothing is computed ahead."""

    def begin_step(self, forward: Forward, batches: Iterable[Batch]) -> None:
        """Nothing is shared by the micro-batches of a step."""

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["ends"]) // 2

    def loss_sum(self, forward: Forward, batch: Batch) -> torch.Tensor:
        """The sum of the losses of a batch's pairs."""
        reward_A = rewards(forward, batch)
        found = self.method(reward_A[0::2], reward_A[1::2])
        (self.training if torch.is_grad_enabled() else self.validation).add(found.figures)
        return found.loss_P.sum()


def rewards(forward: Forward, batch: Batch) -> torch.Tensor:
    """``reward_A`` of a batch's texts, float32 (float64 for float64)."""
    hidden_AD = forward.hidden(batch, batch["ends"])
    head = score_layer(forward.own)
    wide = torch.promote_types(hidden_AD.dtype, torch.float32)
    with torch.autocast(hidden_AD.device.type, enabled=False):
        return F.linear(hidden_AD.to(wide), head.weight.to(wide))[:, 0]


def _last(ids: np.ndarray, pad_id: int) -> int:
    """The last token that is not padding."""
    kept = np.flatnonzero(ids != pad_id)
    return int(kept[-1]) if len(kept) else len(ids) - 1
