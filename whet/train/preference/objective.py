"""From a batch of answers to the loss of a method: the one loop that all methods share.

N tokens of A answers; P pairs or judged answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from whet.data.answer_loader import AnswerDataset, AnswerLayout
from whet.engine.transfer import to_device
from whet.train.forward import Batch, Forward, Way
from whet.train.preference.answers import Answers, Outcome
from whet.train.preference.dpo import Dpo
from whet.train.preference.figures import Figures
from whet.train.preference.kto import Kto, divergence
from whet.train.preference.orpo import Orpo
from whet.train.preference.reference import compute_reference
from whet.train.preference.simpo import Simpo
from whet.train.preference.sums import AnswerSums

Method = Dpo | Orpo | Simpo | Kto


class Kept(NamedTuple):
    """How a reference is computed ahead.

    Attributes:
        folder: on the disk; None: in memory only.
        ahead: also where adapters could be left out instead.
    """

    folder: Path | None = None
    ahead: bool = False


NOTHING_KEPT = Kept()


class PreferenceObjective:
    """The loss that a trainer asks for, in place of the cross-entropy.

    The reference is the model without its adapters, in the same forward as the policy; where the weights themselves are
    trained, it is computed for all answers before the first step (``prepare``).

    Args:
        kept: where a reference that is computed ahead is kept.
    """

    def __init__(self, method: Method, kept: Kept = NOTHING_KEPT) -> None:
        self.method, self.kept = method, kept
        self.training, self.validation = Figures(), Figures()
        self._z: torch.Tensor | None = None

    def prepare(
        self,
        forward: Forward,
        dataset: AnswerDataset,
        load: Callable[[list[Any]], Batch],
        way: Way,
    ) -> None:
        """Compute the reference of a data set once, with the weights as they are now: where no adapter can be left out,
        or where that was asked for."""
        if not self.method.needs_reference or dataset.reference is not None:
            return
        if forward.has_adapters and not self.kept.ahead:
            return
        folder = self.kept.folder / way.name if self.kept.folder is not None and way.name else None
        dataset.reference = compute_reference(forward, dataset, load, way.groups, folder, way.resumed)

    def begin_step(self, forward: Forward, batches: Iterable[Batch]) -> None:
        """Before an optimizer step: KTO's divergence from all of its micro-batches."""
        if not isinstance(self.method, Kto):
            return
        batches, ratios = list(batches), []
        with torch.no_grad():
            for others in (batch["others"] for batch in batches if "others" in batch):
                sums = _sums(others)
                policy_N, reference_N = forward.logprobs(others), self._reference(forward, others)
                assert reference_N is not None
                ratios.append(sums(policy_N - reference_N))
        device = batches[0]["input_ids"].device if batches else None
        self._z = divergence(torch.cat(ratios)) if ratios else torch.zeros((), device=device)

    def count(self, batch: Batch) -> int:
        """Pairs, or judged answers: what a step's loss is averaged over."""
        layout: AnswerLayout = batch["answers"]
        return layout.examples

    def loss_sum(self, forward: Forward, batch: Batch) -> torch.Tensor:
        """The sum of the losses of a batch's examples."""
        layout: AnswerLayout = batch["answers"]
        sums = _sums(batch)
        good_A = None if layout.good is None else to_device(torch.tensor(layout.good), batch["rows"].device)
        reference_N = self._reference(forward, batch)
        policy_N = forward.logprobs(batch)
        policy_A = sums(policy_N)
        reference_A = None if reference_N is None else sums(reference_N)
        found = self._outcome(Answers(policy_A, sums.tokens_A.to(policy_A.dtype), reference_A), good_A)
        if reference_N is not None:
            found.figures["kl"] = _divergence_of_tokens(policy_N.detach(), reference_N)
        (self.training if torch.is_grad_enabled() else self.validation).add(found.figures)
        return found.loss_P.sum()

    def _outcome(self, answers: Answers, good_A: torch.Tensor | None) -> Outcome:
        if isinstance(self.method, Kto):
            assert good_A is not None and self._z is not None, "begin_step comes first"
            return self.method(answers, good_A, self._z.to(answers.logp_P.dtype))
        chosen, rejected = (
            Answers(*(None if value is None else value[place::2] for value in answers))  # type: ignore[arg-type]
            for place in (0, 1)
        )
        return self.method(chosen, rejected)

    def _reference(self, forward: Forward, batch: Batch) -> torch.Tensor | None:
        """Log-probabilities of the tokens under the reference."""
        if not self.method.needs_reference:
            return None
        if "reference" in batch:
            stored: torch.Tensor = batch["reference"]
            return stored
        with forward.reference():
            return forward.logprobs(batch)


def _sums(batch: Batch) -> AnswerSums:
    layout: AnswerLayout = batch["answers"]
    return AnswerSums(layout.tokens, batch["rows"].device)


def _divergence_of_tokens(policy_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """An estimate of KL(policy || reference) at each token, never negative (Schulman 2020, "k3"): right where the
    answers are the policy's own, else a measure of how far it has moved on these."""
    r_N = reference_N - policy_N
    return torch.expm1(r_N) - r_N
