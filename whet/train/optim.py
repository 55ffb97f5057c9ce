"""AdamW over all adapters at once: one kernel updates the flat buffers of parameters, gradients and moments.

torch.optim.AdamW's arithmetic and its checkpoint format. 8-bit and paged optimizers are bitsandbytes' and torchao's,
made by transformers by their names.

P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw

from whet.errors import TrainingError
from whet.train.flat import FlatAdapters

NAMES = ("adamw_torch", "adamw_torch_fused")  # what transformers calls torch.optim.AdamW
FUSED = ("cpu", "cuda", "mps", "xpu")  # devices with torch's fused kernel


def name_of(args: Any) -> str:
    """The optimizer that transformers' ``TrainingArguments`` name."""
    return str(getattr(args.optim, "value", args.optim))


class FlatAdamW(torch.optim.Optimizer):
    """AdamW as torch.optim.AdamW computes it (fused where the device has that), one call per group.

    ``state_dict`` is torch.optim.AdamW's for the same groups: checkpoints of either continue with the other.
    ``register_step_post_hook`` is the place for what must follow every update.
    As in torch, a parameter whose gradient is None is left alone; after ``zero_grad`` (and ``FlatAdapters.attach``)
    trainable parameters have a gradient, and one that took no part in the loss has the gradient zero.

    Args:
        flat: what to train.
        lr, betas, eps, weight_decay: torch.optim.AdamW's.
        undecayed: parameters without weight decay: the second group, as transformers makes it.
    """

    def __init__(
        self,
        flat: FlatAdapters,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        undecayed: Iterable[torch.nn.Parameter] = (),
    ) -> None:
        self.flat = flat
        apart = set(undecayed)
        groups = [
            {"params": [p for p in flat.parameters if p not in apart], "weight_decay": weight_decay},
            {"params": [p for p in flat.parameters if p in apart], "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._make_state()

    def _make_state(self) -> None:
        """Flat moments from whatever ``state`` holds (zeros where nothing); ``state`` becomes views of them."""
        flat = self.flat
        self._mean, self._square = torch.zeros_like(flat.values), torch.zeros_like(flat.values)
        self._steps_P = torch.zeros(len(flat.parameters), device=flat.values.device)  # float32, as torch keeps them
        for i, parameter in enumerate(flat.parameters):
            views = {
                "step": self._steps_P[i],
                "exp_avg": flat.view(self._mean, i),
                "exp_avg_sq": flat.view(self._square, i),
            }
            for key, value in self.state.get(parameter, {}).items():
                views[key].copy_(value)  # from another device where the adapters were moved
            self.state[parameter] = views
        self._missing: list[int] | None = None
        self._runs: list[list[tuple[int, int]]] = []

    def _find_runs(self, missing: list[int]) -> list[list[tuple[int, int]]]:
        """Per group the stretches [first, last) of parameters that one call can update: neighbours, equally old."""
        steps, skipped = self._steps_P.tolist(), set(missing)
        found = []
        for group in self.param_groups:
            runs: list[tuple[int, int]] = []
            for i in sorted(self.flat.index[parameter] for parameter in group["params"]):
                if i in skipped:
                    continue
                if runs and runs[-1][1] == i and steps[i - 1] == steps[i]:
                    runs[-1] = (runs[-1][0], i + 1)
                else:
                    runs.append((i, i + 1))
            found.append(runs)
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the gradients that the parameters have now."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        missing = self.flat.gather()
        if self._mean.device != self.flat.values.device:
            self._make_state()
        if missing != self._missing:
            self._missing, self._runs = missing, self._find_runs(missing)
        for group, runs in zip(self.param_groups, self._runs, strict=True):
            for first, last in runs:
                self._update(group, first, last)
                # as an update in place would: autograd, and whoever keeps copies of adapters, look at the versions
                torch.autograd.graph.increment_version(self.flat.parameters[first:last])
        return loss

    def _update(self, group: dict[str, Any], first: int, last: int) -> None:
        part = slice(self.flat.starts[first], self.flat.starts[last])
        beta1, beta2 = group["betas"]
        adamw(
            [self.flat.values[part]],
            [self.flat.gradients[part]],
            [self._mean[part]],
            [self._square[part]],
            [],
            [self._steps_P[first]],  # counted up by the call
            fused=self.flat.values.device.type in FUSED,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        self._steps_P[first + 1 : last] += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """All gradients zero; they stay views whatever ``set_to_none`` says."""
        self.flat.zero()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's; only for parameters of the buffer.

        Raises:
            TrainingError: others are in the group.
        """
        super().add_param_group(param_group)
        if any(parameter not in self.flat.index for parameter in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise TrainingError(
                "a parameter group with parameters outside the flat buffer", fix="make a new FlatAdapters of all"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of this class or of torch.optim.AdamW.

        Raises:
            TrainingError: the state is of another optimizer.
        """
        known = {"step", "exp_avg", "exp_avg_sq"}
        odd = any(group.get("amsgrad") or group.get("maximize") for group in state_dict["param_groups"])
        if odd or any(set(one) != known for one in state_dict["state"].values()):
            raise TrainingError(
                "the checkpoint is of another optimizer", "plain AdamW", "set the optimizer it was made with"
            )
        super().load_state_dict(state_dict)
        self._make_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Deep copies and unpickled ones gather the parameters that came with them."""
        super().__setstate__(state)
        if "flat" not in self.__dict__:
            self.flat = FlatAdapters(parameter for group in self.param_groups for parameter in group["params"])
            self._make_state()


def adapter_optimizer(model: torch.nn.Module, args: Any, decayed: Collection[str]) -> FlatAdamW | None:
    """The optimizer of a LoRA run, where everything that is trained is a float32 adapter on one device.

    Args:
        model: with PEFT's adapters.
        args: transformers' ``TrainingArguments``.
        decayed: names of parameters with weight decay (``Trainer.get_decay_parameter_names``).

    Returns:
        None where another optimizer is asked for, or something else is trained, or others (DeepSpeed, FSDP) keep the
        parameters: transformers makes the optimizer then.
    """
    if name_of(args) not in NAMES or args.fsdp or args.deepspeed:
        return None
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    plain = all(".lora_" in name and type(p.data) is torch.Tensor for name, p in trained.items())
    places = {(p.device, p.dtype) for p in trained.values()}
    if not plain or len(places) != 1 or next(iter(places))[1] != torch.float32:
        return None
    undecayed = [p for name, p in trained.items() if name not in decayed]
    apart = set(undecayed)
    flat = FlatAdapters([*(p for p in trained.values() if p not in apart), *undecayed])  # a group is one stretch
    return FlatAdamW(
        flat,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
        undecayed=undecayed,
    )
