"""What every preference method reads and returns: one number for each answer, and nothing of tokens or models.

P pairs (KTO: judged answers) of a micro-batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Answers(NamedTuple):
    """One side of the pairs.

    Attributes:
        logp_P: log-probability of each answer under the policy, nats: the sum over its tokens.
        tokens_P: trained tokens of each answer, in the dtype of ``logp_P``.
        reference_P: the same under the reference; None for methods without one.
    """

    logp_P: torch.Tensor
    tokens_P: torch.Tensor
    reference_P: torch.Tensor | None = None

    @property
    def ratio_P(self) -> torch.Tensor:
        """log (policy / reference) of each answer.

        Raises:
            ValueError: there is no reference.
        """
        if self.reference_P is None:
            raise ValueError("this method compares with a reference, and none was computed")
        return self.logp_P - self.reference_P

    @property
    def mean_P(self) -> torch.Tensor:
        """Log-probability of a token, averaged over each answer."""
        return self.logp_P / self.tokens_P


class Outcome(NamedTuple):
    """What a method makes of a micro-batch.

    Attributes:
        loss_P: of each pair, differentiable in ``logp_P``.
        figures: values to average over all pairs that gave some; without gradients.
    """

    loss_P: torch.Tensor
    figures: dict[str, torch.Tensor]


def reward_figures(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is logged of the rewards of pairs."""
    chosen_P, rejected_P = chosen_P.detach(), rejected_P.detach()
    return {
        "rewards/chosen": chosen_P,
        "rewards/rejected": rejected_P,
        "rewards/margins": chosen_P - rejected_P,
        "rewards/accuracies": (chosen_P > rejected_P).to(chosen_P.dtype),
    }


def outcome(
    loss_P: torch.Tensor, chosen: Answers, rejected: Answers, chosen_P: torch.Tensor, rejected_P: torch.Tensor
) -> Outcome:
    """The outcome of a method for pairs, with the usual figures.

    Args:
        chosen_P, rejected_P: rewards of the two answers, as the method defines them.
    """
    with torch.no_grad():
        figures = reward_figures(chosen_P, rejected_P) | {
            "logps/chosen": chosen.logp_P.detach(),
            "logps/rejected": rejected.logp_P.detach(),
            "logps/accuracies": (chosen.mean_P > rejected.mean_P).to(loss_P.dtype),
        }
    return Outcome(loss_P, figures)
