"""SimPO: the reward is the mean log-probability itself (Meng et al. 2024, arXiv 2405.14734, eq. 6).

    loss = -log σ(beta (mean log p(chosen) - mean log p(rejected)) - gamma)

There is no reference. ``nll_weight`` adds that much of the chosen answer's mean negative log-likelihood (CPO-SimPO).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from whet.train.preference.answers import Answers, Outcome, outcome


@dataclass(frozen=True)
class Simpo:
    """A loss of pairs without a reference.

    Args:
        beta: scale of the reward.
        gamma: the margin by which the chosen answer's reward should be higher.
        nll_weight: of the chosen answer's mean negative log-likelihood.
    """

    beta: float = 2.0
    gamma: float = 0.5
    nll_weight: float = 0.0
    needs_reference = False
    judged = False

    def __call__(self, chosen: Answers, rejected: Answers) -> Outcome:
        chosen_P, rejected_P = self.beta * chosen.mean_P, self.beta * rejected.mean_P
        loss_P = -F.logsigmoid(chosen_P - rejected_P - self.gamma)
        if self.nll_weight:
            loss_P = loss_P - self.nll_weight * chosen.mean_P
        return outcome(loss_P, chosen, rejected, chosen_P, rejected_P)
