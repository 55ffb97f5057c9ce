"""All adapter parameters in one buffer, and all their gradients in another.

PEFT's r=16 on the seven projections of an 8B model are 448 small tensors. The optimizer's pass over them, the norm of
their gradients and the copies that the engine keeps took the host 9 to 16 ms a step in the engine's prototype; over one
buffer each is one kernel.

Where several processes train, their gradients are summed between ``gather`` and ``clip_``, by one
``torch.distributed.all_reduce(flat.gradients)``: a forward that goes around DDP's wrapper gets no reduction from it.

P parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import torch

from whet.console import notice
from whet.errors import TrainingError

ALIGN = 32  # elements; every parameter starts on a border of 128 bytes, which vector loads and GEMMs like
DTYPES = (torch.float32, torch.float64)


class FlatAdapters:
    """Parameters as views of one flat buffer, their gradients as views of a second one.

    The parameters stay the objects that model and PEFT know; only where their numbers lie changes. What moves them
    away (``model.to``, a new ``.data``) is seen at the next ``gather``, said once, and mended. A deep copy or an
    unpickled model is a model of its own with its own memory. (``torch.save`` and safetensors write each number once;
    plain ``pickle`` writes the whole buffer once per parameter.)

    Args:
        parameters: P different float32 or float64 parameters of one dtype on one device, in the order of the buffer.

    Attributes:
        values: 1-D buffer of all parameters; gaps between them are zero.
        gradients: 1-D buffer of the same layout.

    Raises:
        TrainingError: nothing given, one given twice, several dtypes or devices.
    """

    values: torch.Tensor
    gradients: torch.Tensor

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.index = {parameter: i for i, parameter in enumerate(self.parameters)}
        if not self.parameters or len(self.index) != len(self.parameters):
            raise TrainingError("no parameters, or one of them twice", "each trained parameter once")
        sizes = [-(-parameter.numel() // ALIGN) * ALIGN for parameter in self.parameters]
        self.starts = list(accumulate(sizes, initial=0))
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.dtype = self.parameters[0].dtype
        self._lay_out()

    @torch.no_grad()
    def _lay_out(self) -> None:
        """New buffers where the parameters are now, with their values and gradients."""
        places = {(parameter.device, parameter.dtype) for parameter in self.parameters}
        if places != {(self.parameters[0].device, self.dtype)} or self.dtype not in DTYPES:
            raise TrainingError(
                f"adapters of several kinds, or changed: {', '.join(sorted(f'{d}, {t}' for d, t in places))}",
                f"all of {self.dtype if self.dtype in DTYPES else torch.float32} on one device",
                "convert the adapters before the trainer is made, and leave them so",
            )
        if [parameter.shape for parameter in self.parameters] != self.shapes:
            raise TrainingError("adapters changed their shape after the optimizer was made", fix="make a new trainer")
        self.values = torch.zeros(self.starts[-1], dtype=self.dtype, device=self.parameters[0].device)
        self.gradients = torch.zeros_like(self.values)
        self._gradient_views = [self.view(self.gradients, i) for i in range(len(self.parameters))]
        for i, (parameter, gradient) in enumerate(zip(self.parameters, self._gradient_views, strict=True)):
            value = self.view(self.values, i)
            value.copy_(parameter.data)
            parameter.data = value
            if parameter.grad is not None:
                gradient.copy_(parameter.grad)
                parameter.grad = gradient
        self._places = [
            (parameter.data_ptr(), gradient.data_ptr())
            for parameter, gradient in zip(self.parameters, self._gradient_views, strict=True)
        ]

    def view(self, buffer: torch.Tensor, i: int) -> torch.Tensor:
        """Parameter i's part of a buffer of this layout, in the parameter's shape."""
        shape = self.shapes[i]
        return buffer[self.starts[i] : self.starts[i] + shape.numel()].view(shape)

    def check(self) -> None:
        """Bring parameters that were moved away back into the buffers (new ones, on their new device).

        Raises:
            TrainingError: they have another dtype or shape now, or lie on several devices.
        """
        for parameter, gradient, (value_at, gradient_at) in zip(
            self.parameters, self._gradient_views, self._places, strict=True
        ):
            if parameter.data_ptr() != value_at or gradient.data_ptr() != gradient_at:
                self._lay_out()
                notice("something moved the adapters' memory after the optimizer was made; they are gathered again")
                return

    @torch.no_grad()
    def gather(self) -> list[int]:
        """All gradients in ``gradients``: those that autograd made anew are copied in and become views.

        Returns:
            Which parameters have no gradient (None); their part of the buffer is zero.
        """
        self.check()
        missing, strays = [], []
        for i, (parameter, (_, place)) in enumerate(zip(self.parameters, self._places, strict=True)):
            gradient = parameter.grad
            if gradient is None:
                missing.append(i)
            elif gradient.data_ptr() != place:
                strays.append(i)
        views = self._gradient_views
        if strays:
            torch._foreach_copy_([views[i] for i in strays], [self.parameters[i].grad for i in strays])
            for i in strays:
                self.parameters[i].grad = views[i]
        if len(missing) == len(self.parameters):
            self.gradients.zero_()
        elif missing:
            torch._foreach_zero_([views[i] for i in missing])
        return missing

    def attach(self) -> None:
        """Before a backward: every trainable parameter without a gradient gets its view, at zero.

        Backward passes then add in place. ``model.zero_grad()`` sets gradients to None; this takes it back.
        """
        for i in self.gather():
            if self.parameters[i].requires_grad:
                self.parameters[i].grad = self._gradient_views[i]

    def restore(self, gradients: torch.Tensor) -> None:
        """Take back what a failed backward has added.

        Args:
            gradients: a copy of ``gradients`` from before it.
        """
        self.attach()
        self.gradients.copy_(gradients)

    def zero(self) -> None:
        """All gradients zero, and views."""
        for parameter in self.parameters:
            parameter.grad = None
        self.attach()

    @torch.no_grad()
    def clip_(self, max_norm: float) -> torch.Tensor:
        """Scale the gradients down to a 2-norm of ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` does.

        Returns:
            The norm before, a scalar on the device (no synchronisation).
        """
        self.gather()
        norm = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def strangers(self, model: torch.nn.Module) -> list[str]:
        """Names of the model's trainable parameters that are not in the buffer.

        Not empty where parameters were replaced by new objects (``load_state_dict(..., assign=True)``): an optimizer
        made before that trains what nobody uses any more.
        """
        return [name for name, p in model.named_parameters() if p.requires_grad and p not in self.index]
