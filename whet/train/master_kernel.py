"""torch's AdamW over masters by one kernel, on a GPU: nothing is made for the moment of an update.

State and settings stay those of the torch.optim.AdamW that it stands in for: checkpoints go on with either.
"""

from __future__ import annotations

import torch
from torch.nn import Parameter

from whet.engine.kernels.adamw import AdamW, adamw_

OTHER_RULES = ("amsgrad", "maximize", "capturable", "differentiable")


class KernelAdamW:
    """Updates one stretch of a parameter after the other.

    Args:
        inner: whose state and settings are used; its parameters are the leaves of stretches.
    """

    def __init__(self, inner: torch.optim.AdamW) -> None:
        self.inner = inner
        self.group_of = {leaf: i for i, group in enumerate(inner.param_groups) for leaf in group["params"]}
        self._steps: dict[Parameter, int] = {}  # on the host: the state's own counter may lie on the device

    @property
    def able(self) -> bool:
        """Whether the settings, which a checkpoint may have brought, are plain AdamW's."""
        return not any(group.get(rule) for group in self.inner.param_groups for rule in OTHER_RULES)

    def make_state(self, leaf: Parameter, weights_N: torch.Tensor) -> None:
        """Moments of zero where there are none yet, as torch makes them."""
        group, state = self.inner.param_groups[self.group_of[leaf]], self.inner.state[leaf]
        if state:
            return
        device = weights_N.device
        state["step"] = torch.zeros((), dtype=torch.float32, device=device if group.get("fused") else "cpu")
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros(len(weights_N), dtype=torch.float32, device=device)
        self._steps[leaf] = 0

    def update(
        self,
        leaf: Parameter,
        weights_N: torch.Tensor,
        low_N: torch.Tensor | None,
        gradient_N: torch.Tensor,
        factor: torch.Tensor | None,
    ) -> None:
        """As ``adamw.adamw_``, with the state of ``leaf``."""
        group, state = self.inner.param_groups[self.group_of[leaf]], self.inner.state[leaf]
        self.make_state(leaf, weights_N)
        if leaf not in self._steps:
            self._steps[leaf] = int(state["step"])
        self._steps[leaf] += 1
        beta1, beta2 = group["betas"]
        settings = AdamW(float(group["lr"]), beta1, beta2, group["eps"], group["weight_decay"], step=self._steps[leaf])
        adamw_(weights_N, low_N, gradient_N, state["exp_avg"], state["exp_avg_sq"], settings, factor)

    def hand_over(self) -> None:
        """Bring the state's counters up to date: for a checkpoint, or for torch's own update."""
        for leaf, step in self._steps.items():
            self.inner.state[leaf]["step"].fill_(step)
        self._steps.clear()


def kernel_for(inner: torch.optim.Optimizer) -> KernelAdamW | None:
    """None for an optimizer other than torch.optim.AdamW itself."""
    return KernelAdamW(inner) if type(inner) is torch.optim.AdamW else None
