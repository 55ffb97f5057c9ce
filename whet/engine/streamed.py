"""Frozen 16-bit weights that stay in main memory and come to the device layer by layer, while the one before computes.

Groups of one shape share a ring of two device buffers. When a group is needed, the next one of its shape in the
direction of the pass is copied into the other buffer, by a stream of its own: forward the next layer's, backward that
of the layer before. On the device lie two layers instead of all; each pass moves all weights once (Qwen2.5-3B's shape:
5.6 GB, 0.11 s at 50 GB/s), which costs nothing where a layer computes for longer than its weights travel.

N/K outputs/inputs of the group, R its LoRA columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from whet.engine.page_locked import PageLocked
from whet.engine.storage import Shape, bytes_of


class Streamed:
    """A storage (``whet/engine/storage.py``) whose weights lie in page-locked main memory; the modules' weights are
    views of that, so that they are held once.

    Work of all groups has to be queued on one stream.

    Args:
        bases: linear layers, frozen, of one dtype.
        device: where the products are made.
        rings: by shape; hand the same dict to every group of a model, in the order of its layers.
    """

    def __init__(
        self, bases: Sequence[Any], shape: Shape, dtype: torch.dtype, device: torch.device, rings: dict[Any, Any]
    ) -> None:
        n_rows, n_columns, n_lora = self._shape = shape
        self._pages = PageLocked((n_rows + n_lora, n_columns + n_lora), dtype, device)
        self.host = self._pages.tensor
        self.a_RK = torch.zeros(n_lora, n_columns, dtype=dtype, device=device)
        self.b_NR = torch.zeros(n_rows, n_lora, dtype=dtype, device=device)
        self._borrowed: list[Any] = []
        row = 0
        for base in bases:
            weight = base.weight
            if weight.dtype != dtype or weight.requires_grad:
                raise ValueError(f"a weight of {weight.dtype} that stays in main memory; needed: frozen, {dtype}")
            view = self.host[row : row + weight.shape[0], :n_columns]
            view.copy_(weight.detach())
            weight.data = view
            self._borrowed.append(weight)
            row += view.shape[0]
        key = (*shape, dtype, device)
        if key not in rings:
            rings[key] = Ring(self.host, device)
        self._ring: Ring = rings[key]
        self._place = self._ring.join(self)
        self.stale = True  # the operands are not in the device's buffer

    @property
    def buffer(self) -> torch.Tensor:
        return self._ring.buffer_of(self._place)

    def prepare(self) -> None:
        self._ring.need(self._place)
        if self.stale:
            n_rows, n_columns, _ = self._shape
            buffer = self.buffer
            buffer[n_rows:, :n_columns] = self.a_RK
            buffer[:n_rows, n_columns:] = self.b_NR
            self.stale = False

    def touched(self) -> None:
        self.stale = True

    def follow(self) -> None:
        pass

    def bytes(self) -> dict[str, int]:
        operands = bytes_of(a=self.a_RK, b=self.b_NR)
        return bytes_of(shared=self.host, host=self.host) | {"operands": sum(operands.values())}

    def release(self) -> None:
        start, size = self.host.data_ptr(), self.host.nbytes
        for weight in self._borrowed:
            if start <= weight.data_ptr() < start + size:  # not moved since, nor lent to another engine
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        self._borrowed = []
        self._ring.close()
        self._pages.unlock()
        self._pages = PageLocked((0, 0), self.host.dtype, self.host.device)
        self.host = self.a_RK = self.b_NR = self._pages.tensor


class Ring:
    """Two device buffers, and whose weights they hold.

    Args:
        like: a group's weights. device: of the buffers.
    """

    def __init__(self, like: torch.Tensor, device: torch.device) -> None:
        self.members: list[Streamed] = []
        self.buffers = [torch.empty(like.shape, dtype=like.dtype, device=device) for _ in range(2)]
        self._owners: list[int | None] = [None, None]
        self._ready: list[Any] = [None, None]  # events: the copy is done
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last = -1

    def join(self, member: Streamed) -> int:
        """The member's place in the order of a forward."""
        self.members.append(member)
        return len(self.members) - 1

    def buffer_of(self, place: int) -> torch.Tensor:
        """Valid after ``need``, until two others were needed."""
        return self.buffers[self._owners.index(place)]

    def need(self, place: int) -> None:
        """Let the current stream wait for a member's weights, and fetch those that will be needed after it."""
        if place == self._last:
            return
        step = place - self._last if abs(place - self._last) == 1 else 1
        if place not in self._owners:  # a jump: nobody has foreseen it
            self._fetch(place, self._other(self._last))
        slot = self._owners.index(place)
        if self._copies is not None and self._ready[slot] is not None:
            torch.cuda.current_stream(self.buffers[0].device).wait_event(self._ready[slot])
            self._ready[slot] = None
        self._last = place
        coming = place + step
        if 0 <= coming < len(self.members) and coming not in self._owners:
            self._fetch(coming, 1 - slot)

    def close(self) -> None:
        """The buffers are of no more use."""
        if self._copies is not None:  # a copy that nobody asked for in the end may be on its way into them
            torch.cuda.current_stream(self.buffers[0].device).wait_stream(self._copies)
        self.members, self._owners, self._last = [], [None, None], -1
        self.buffers = [buffer.new_empty(0, 0) for buffer in self.buffers]

    def _other(self, place: int) -> int:
        """The buffer that does not hold this member."""
        return 1 - self._owners.index(place) if place in self._owners else 0

    def _fetch(self, place: int, slot: int) -> None:
        """Copy a member's weights into a buffer, once what was queued so far has read it."""
        member = self.members[place]
        self._owners[slot], member.stale = None, True  # nobody's, should Ctrl-C come before the copy is queued
        if self._copies is None:
            self.buffers[slot].copy_(member.host)
        else:
            self._copies.wait_stream(torch.cuda.current_stream(self.buffers[slot].device))
            with torch.cuda.stream(self._copies):
                self.buffers[slot].copy_(member.host, non_blocking=True)
                self._ready[slot] = self._copies.record_event()
        self._owners[slot] = place
