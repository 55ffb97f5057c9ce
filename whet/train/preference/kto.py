"""KTO: answers judged good or bad, without pairs (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8).

    r = log (policy / reference) of the answer
    loss = w_good (1 - σ(beta (r - z)))     for a good answer
           w_bad  (1 - σ(beta (z - r)))     for a bad one

z, the divergence from the reference, is estimated as the paper does (section 4.1): the mean of r over answers that
belong to other prompts, at least 0, without gradient. Here it is one number for the whole optimizer step, so that
batch size and accumulation do not change the result; with one answer in a step there is nothing to estimate it from,
and z is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whet.train.preference.answers import Answers, Outcome


@dataclass(frozen=True)
class Kto:
    """A loss of judged answers under a reference.

    Args:
        beta: how strongly the policy is held to the reference.
        good_weight, bad_weight: of the two kinds of answers; the paper wants good count x good weight to be 1 to 4/3
            times the same of the bad.
    """

    beta: float = 0.1
    good_weight: float = 1.0
    bad_weight: float = 1.0
    needs_reference = True
    judged = True

    def __call__(self, answers: Answers, good_P: torch.Tensor, z: torch.Tensor) -> Outcome:
        """The loss of each answer.

        Args:
            good_P: bool.
            z: a scalar, at least 0.
        """
        r_P = answers.ratio_P
        sign_P = 2 * good_P.to(r_P.dtype) - 1
        weight_P = torch.where(good_P, r_P.new_tensor(self.good_weight), r_P.new_tensor(self.bad_weight))
        loss_P = weight_P * torch.sigmoid(-self.beta * sign_P * (r_P - z))
        reward_P = self.beta * r_P.detach()
        figures = {
            "rewards/chosen": reward_P[good_P],
            "rewards/rejected": reward_P[~good_P],
            "rewards/accuracies": ((reward_P > self.beta * z) == good_P).to(r_P.dtype),
            "logps/chosen": answers.logp_P.detach()[good_P],
            "logps/rejected": answers.logp_P.detach()[~good_P],
            "kl_estimate": z.detach().reshape(1),
        }
        return Outcome(loss_P, figures)


def divergence(ratio_P: torch.Tensor) -> torch.Tensor:
    """z from the log-ratios of answers that belong to other prompts; 0 without any."""
    return ratio_P.mean().clamp(min=0) if len(ratio_P) else ratio_P.new_zeros(())
