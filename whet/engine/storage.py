"""Where the weights of a projection group live: dense in the group's own buffer, or NF4 and dequantised when needed.

A storage has a buffer (N + R, K + R), laid out as ``whet/engine/weights.py`` draws it, and the two LoRA operands
a_RK and b_NR, zero in their padding. A third storage needs these members and nothing else.

N/K outputs/inputs of the group, R its LoRA columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from whet.engine.kernels.nf4 import Nf4Weight, dequantise_nf4
from whet.engine.quantised import read_nf4

StorageName = Literal["dense", "nf4", "streamed"]
Shape = tuple[int, int, int]  # N, K, R


class Storage(Protocol):
    """What a group asks of its storage."""

    a_RK: torch.Tensor
    b_NR: torch.Tensor

    @property
    def buffer(self) -> torch.Tensor:
        """(N + R, K + R); valid after ``prepare``."""
        ...

    def prepare(self) -> None:
        """Makes ``buffer`` hold this group's weights and operands."""
        ...

    def touched(self) -> None:
        """The operands have changed."""
        ...

    def follow(self) -> None:
        """Weights may have been moved: those in the buffer that are trained are taken back."""
        ...

    def bytes(self) -> dict[str, int]:
        """``buffer``: of this group alone; ``shared``: of a buffer used by others too; ``operands``: A and s * B where
        they are not part of the buffer; ``packed``: quantised weights, which are the model's own;
        ``twice``: weights that the model holds as well as the buffer."""
        ...

    def release(self) -> None:
        """Undoes what was done to the modules."""
        ...


class Dense:
    """The weights in a buffer of the group, and the modules' weights made views of it, so that they are held once.

    A module keeps working: its weight is a strided view with the same values; its forward, ``state_dict``,
    ``torch.save``, copies, and PEFT's saving and merging work as before (merging changes the buffer too). A weight
    stays as it is, and is held twice, where it has another dtype, or where it is trained beside adapters. Without LoRA
    columns the views are contiguous, and trained weights may be written by any optimizer. Two things are different
    until ``release``: transformers' ``save_pretrained`` of all weights refuses strided ones; moving or casting the
    model gives the modules weights of their own, which the buffer does not follow (trained ones by ``follow``).
    """

    def __init__(self, bases: Sequence[Any], shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        n_rows, n_columns, n_lora = shape
        self._buffer = torch.zeros(n_rows + n_lora, n_columns + n_lora, dtype=dtype, device=device)
        self.a_RK = self._buffer[n_rows:, :n_columns]
        self.b_NR = self._buffer[:n_rows, n_columns:]
        self._borrowed: list[Any] = []
        self._trained: list[tuple[Any, torch.Tensor]] = []  # and their places
        self._twice = 0
        row = 0
        for base in bases:
            weight = base.weight
            if not torch.is_floating_point(weight):
                raise ValueError(f"a weight of dtype {weight.dtype} is quantised; dense weights are floating point")
            view = self._buffer[row : row + weight.shape[0], :n_columns]
            view.copy_(weight.detach())
            if weight.dtype == dtype and weight.device == device and not (weight.requires_grad and n_lora):
                weight.data = view
                self._borrowed.append(weight)
                self._trained += [(weight, view)] if weight.requires_grad else []
            else:
                self._twice += weight.numel() * weight.element_size()
            row += view.shape[0]

    @property
    def buffer(self) -> torch.Tensor:
        return self._buffer

    def prepare(self) -> None:
        pass

    def touched(self) -> None:
        pass

    def follow(self) -> None:
        for weight, view in self._trained:
            lend(weight, view)

    def bytes(self) -> dict[str, int]:
        return bytes_of(buffer=self._buffer) | {"twice": self._twice}

    def release(self) -> None:
        start, size = self._buffer.untyped_storage().data_ptr(), self._buffer.untyped_storage().nbytes()
        for weight in self._borrowed:
            if start <= weight.data_ptr() < start + size:
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        self._borrowed, self._trained = [], []
        self._buffer = self.a_RK = self.b_NR = self._buffer.new_empty(0, 0)


def lend(weight: torch.Tensor, view: torch.Tensor) -> None:
    """Make a parameter a view, with its values of now; nothing where it is that view.

    Raises:
        ValueError: another dtype or device.
    """
    if weight.data_ptr() == view.data_ptr():
        return
    if weight.dtype != view.dtype or weight.device != view.device:
        raise ValueError(
            f"a trained weight is {weight.dtype} on {weight.device} now; needed: {view.dtype} on {view.device}, "
            "as when the trainer was made: convert or move the model before that"
        )
    view.copy_(weight.detach())
    weight.data = view


@dataclass
class Holder:
    """A shared buffer, and whose weights it holds now."""

    buffer: torch.Tensor
    owner: object = None


class Nf4:
    """Four-bit weights in bitsandbytes' storage, dequantised into a buffer that groups of one shape share.

    ``prepare`` does nothing while the buffer still holds this group's weights: recompute and the gradient of the
    input share one dequantisation where no other group of that shape comes between. Work of all groups has to be
    queued on one stream. A resident group has a buffer of its own, filled once.
    """

    def __init__(
        self,
        bases: Sequence[Any],
        shape: Shape,
        dtype: torch.dtype,
        device: torch.device,
        shared: dict[Any, Any],
        *,
        resident: bool = False,
    ) -> None:
        self._weights: list[Nf4Weight] = []
        for base in bases:
            weight = read_nf4(base)
            if isinstance(weight, str):
                raise ValueError(weight)
            self._weights.append(weight)
        self._widths = [int(base.out_features) for base in bases]
        tensors = [tensor for weight in self._weights for tensor in weight.tensors()]
        self._packed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        n_rows, n_columns, n_lora = self._shape = shape
        self.a_RK = torch.zeros(n_lora, n_columns, dtype=dtype, device=device)
        self.b_NR = torch.zeros(n_rows, n_lora, dtype=dtype, device=device)
        self._resident = resident
        self._stale = True
        self._shared, self._key = shared, (*shape, dtype, device)
        self._holder = self._new_holder() if resident else self._shared_holder()

    def _new_holder(self) -> Holder:
        n_rows, n_columns, n_lora, dtype, device = self._key
        return Holder(torch.zeros(n_rows + n_lora, n_columns + n_lora, dtype=dtype, device=device))

    def _shared_holder(self) -> Holder:
        if self._key not in self._shared:
            self._shared[self._key] = self._new_holder()
        holder: Holder = self._shared[self._key]
        return holder

    def set_resident(self, resident: bool) -> None:
        """Whether this group has a dense copy of its weights from now on."""
        if resident != self._resident:
            self._resident, self._stale = resident, True
            self._holder = self._new_holder() if resident else self._shared_holder()

    @property
    def buffer(self) -> torch.Tensor:
        return self._holder.buffer

    def prepare(self) -> None:
        n_rows, n_columns, _ = self._shape
        buffer = self._holder.buffer
        if self._holder.owner is not self:
            row = 0
            for weight, width in zip(self._weights, self._widths, strict=True):
                dequantise_nf4(weight, buffer[row : row + width, :n_columns])
                row += width
            self._holder.owner = self
            self._stale = True
        if self._stale:
            buffer[n_rows:, :n_columns] = self.a_RK
            buffer[:n_rows, n_columns:] = self.b_NR
            self._stale = False

    def touched(self) -> None:
        self._stale = True

    def follow(self) -> None:
        pass

    def bytes(self) -> dict[str, int]:
        name = "buffer" if self._resident else "shared"
        operands = bytes_of(a=self.a_RK, b=self.b_NR)
        return bytes_of(**{name: self.buffer}) | {"operands": sum(operands.values()), "packed": self._packed}

    def release(self) -> None:
        self._weights = []


def bytes_of(**tensors: torch.Tensor) -> dict[str, int]:
    """By name."""
    return {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
