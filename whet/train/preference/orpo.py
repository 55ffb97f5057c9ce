"""ORPO: supervised fine-tuning with a penalty on the odds of the rejected answer (Hong et al. 2024, arXiv 2403.07691).

    loss = -log p(chosen) - beta log σ(log odds(chosen) - log odds(rejected)),   odds = p / (1 - p)      (eq. 4 to 7)

where log p is the mean over the answer's tokens. There is no reference. Each pair counts the same, whatever the
lengths: TRL averages the first term over all tokens of a micro-batch instead, the prompts' included, which makes a
step's result depend on how it was cut into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from whet.train.preference.answers import Answers, Outcome, outcome


@dataclass(frozen=True)
class Orpo:
    """A loss of pairs without a reference.

    Args:
        beta: weight of the odds ratio, the paper's lambda.
    """

    beta: float = 0.1
    needs_reference = False
    judged = False

    def __call__(self, chosen: Answers, rejected: Answers) -> Outcome:
        odds_P = _log_odds(chosen.mean_P) - _log_odds(rejected.mean_P)
        loss_P = -chosen.mean_P - self.beta * F.logsigmoid(odds_P)
        found = outcome(loss_P, chosen, rejected, self.beta * chosen.mean_P, self.beta * rejected.mean_P)
        found.figures["nll"] = -chosen.mean_P.detach()
        found.figures["log_odds"] = odds_P.detach()
        return found


def _log_odds(mean_P: torch.Tensor) -> torch.Tensor:
    """log (p / (1 - p)) of p = exp(mean); log(1 - p) is computed so that it is exact for p near 1 and near 0."""
    mean_P = mean_P.clamp(max=-torch.finfo(mean_P.dtype).tiny)  # p = 1 would have infinite odds
    return mean_P - torch.log(-torch.expm1(mean_P))
