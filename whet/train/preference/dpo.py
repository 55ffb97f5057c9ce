"""Direct preference optimisation and the losses that share its log-ratio.

With d = log (policy / reference) of the chosen answer - the same of the rejected one, and beta > 0:

    sigmoid       -log σ(beta d)                                    Rafailov et al. 2023, arXiv 2305.18290, eq. 7
      smoothed    -(1 - ε) log σ(beta d) - ε log σ(-beta d)         "cDPO", Mitchell 2023: labels are wrong with ε
    robust        ((1 - ε) f(d) - ε f(-d)) / (1 - 2 ε), f sigmoid   Chowdhury et al. 2024, arXiv 2403.00409, eq. 12
    hinge         max(0, 1 - beta d)                                Zhao et al. 2023 (SLiC), arXiv 2305.10425
    ipo           (d - 1 / (2 beta))²                               Azar et al. 2023, arXiv 2310.12036, eq. 17
    sigmoid_norm  -log σ(beta d)                                    length-normalised, as in Tülu 3, arXiv 2411.15124

In ``ipo`` and ``sigmoid_norm`` the log-ratio of an answer is its mean over the answer's tokens, else their sum. (IPO's
authors say that their reported results are of the mean.)

``nll_weight`` adds that much of the chosen answer's mean negative log-likelihood (RPO: Pang et al. 2024, arXiv
2404.19733, eq. 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from whet.train.preference.answers import Answers, Outcome, outcome

Loss = Literal["sigmoid", "hinge", "ipo", "robust", "sigmoid_norm"]
MEANS = ("ipo", "sigmoid_norm")  # losses of the mean log-ratio


@dataclass(frozen=True)
class Dpo:
    """A loss of pairs under a reference.

    Args:
        beta: how strongly the policy is held to the reference; more is stronger.
        loss: one of the above.
        label_smoothing: ε, the share of pairs that may stand the wrong way round; 0 to below 0.5.
        nll_weight: of the chosen answer's mean negative log-likelihood.
    """

    beta: float = 0.1
    loss: Loss = "sigmoid"
    label_smoothing: float = 0.0
    nll_weight: float = 0.0
    needs_reference = True
    judged = False

    def __call__(self, chosen: Answers, rejected: Answers) -> Outcome:
        means = self.loss in MEANS
        d_P = _ratio(chosen, means) - _ratio(rejected, means)
        loss_P = self._loss(d_P)
        if self.nll_weight:
            loss_P = loss_P - self.nll_weight * chosen.mean_P
        return outcome(loss_P, chosen, rejected, self.beta * chosen.ratio_P, self.beta * rejected.ratio_P)

    def _loss(self, d_P: torch.Tensor) -> torch.Tensor:
        beta, epsilon = self.beta, self.label_smoothing
        if self.loss == "ipo":
            return (d_P - 1 / (2 * beta)) ** 2
        if self.loss == "hinge":
            return torch.relu(1 - beta * d_P)
        right_P, wrong_P = -F.logsigmoid(beta * d_P), -F.logsigmoid(-beta * d_P)
        if self.loss == "robust":
            return ((1 - epsilon) * right_P - epsilon * wrong_P) / (1 - 2 * epsilon)
        return (1 - epsilon) * right_P + epsilon * wrong_P if epsilon else right_P


def _ratio(answers: Answers, means: bool) -> torch.Tensor:
    return answers.ratio_P / answers.tokens_P if means else answers.ratio_P
