"""Which method a config asks for."""

from __future__ import annotations

from typing import Any

from whet.config import RunConfig
from whet.train.preference.dpo import Dpo
from whet.train.preference.kto import Kto
from whet.train.preference.objective import Method
from whet.train.preference.orpo import Orpo
from whet.train.preference.simpo import Simpo


def method_of(config: RunConfig) -> Method:
    """The method of ``rl`` with the keys that are set; what is unset has the method's own default.

    Raises:
        ValueError: ``rl`` is unset.
    """
    beta = config.rl_beta
    if config.rl in ("dpo", "ipo"):
        loss = "ipo" if config.rl == "ipo" else "sigmoid_norm" if config.dpo_norm_loss else config.dpo_loss_type
        smoothing, weight = config.dpo_label_smoothing, config.rpo_alpha
        return Dpo(**_given(beta=beta, loss=loss, label_smoothing=smoothing, nll_weight=weight))
    if config.rl == "orpo":
        return Orpo(**_given(beta=beta if beta is not None else config.orpo_alpha))
    if config.rl == "simpo":
        return Simpo(**_given(beta=beta, gamma=config.simpo_gamma, nll_weight=config.cpo_alpha))
    if config.rl == "kto":
        weights = {"good_weight": config.kto_desirable_weight, "bad_weight": config.kto_undesirable_weight}
        return Kto(**_given(beta=beta, **weights))
    raise ValueError(f"rl is {config.rl!r}; needed: dpo, ipo, kto, orpo or simpo")


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
