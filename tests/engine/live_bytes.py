"""The most bytes that tensors take at once while some work runs, counted operation by operation on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages that are made inside the block; those handed in as ``known`` count when they are freed.

    Attributes:
        highest: bytes, relative to the start of the block; below zero is not seen.
    """

    def __init__(self, known: Iterable[Any]) -> None:
        super().__init__()
        self.now = self.highest = 0
        self.hidden = False
        self._sizes: dict[int, int] = {}
        self._note(known, new=False)

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = call(*args, **(kwargs or {}))
        if not self.hidden:
            self._note(out, new=True)
        return out

    def kernel(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` as one kernel: only what it returns counts, not what its plain twin makes in between."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            outer, self.hidden = self.hidden, True
            try:
                out = call(*args, **kwargs)
            finally:
                self.hidden = outer
            if not outer:
                self._note(out, new=True)
            return out

        return wrapped

    def _note(self, values: Any, new: bool) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes() if new else 0
                self.highest = max(self.highest, self.now)
                weakref.finalize(storage, self._freed, storage._cdata)

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
