"""Main memory that a GPU reads without the processor: page-locked, as large as it was asked for.

torch's own page-locked memory comes in blocks whose sizes are powers of two, which a process keeps: of the weights of a
model up to half would be waste. Here whole pages of the operating system are registered, and given back.

Source: CUDA Runtime API, cudaHostRegister and cudaHostUnregister.
"""

from __future__ import annotations

import math
import mmap
import weakref

import torch

from whet.errors import TrainingError


class PageLocked:
    """A zeroed tensor in main memory, page-locked where the device is a GPU, until ``unlock`` or this object's end.

    Attributes:
        tensor: stays valid after that.

    Raises:
        TrainingError: there is not so much, or the operating system does not lock so much.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        size = math.prod(shape) * dtype.itemsize
        if size == 0:
            self.tensor = torch.zeros(shape, dtype=dtype)
            return
        self.tensor = torch.frombuffer(_pages(size), dtype=dtype).view(shape)
        if device.type == "cuda":
            _lock(self.tensor, device)
            self._finalizer = weakref.finalize(self, _unlock, self.tensor, device)
            self._finalizer.atexit = False  # CUDA may be gone by then, and the memory goes with the process

    def unlock(self) -> None:
        """Copies that are under way end before."""
        if hasattr(self, "_finalizer"):
            self._finalizer()


def _pages(size: int) -> mmap.mmap:
    """Bytes that share no page with others, all zero."""
    try:
        return mmap.mmap(-1, size)
    except OSError as error:
        raise _refused(size, str(error)) from error


def _lock(host: torch.Tensor, device: torch.device) -> None:
    with torch.cuda.device(device):
        error = int(torch.cuda.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0))
    if error:
        raise _refused(host.nbytes, f"CUDA error {error}")


def _refused(size: int, reason: str) -> TrainingError:
    return TrainingError(
        f"{size / 2**20:,.0f} MiB more of main memory cannot be page-locked for stream_weights ({reason})",
        "as much as the layers' weights take (whet plan CONFIG.yml says it)",
        "close other programs, raise the limit of locked memory (containers and WSL have one), or use adapter: qlora",
    )


def _unlock(host: torch.Tensor, device: torch.device) -> None:
    """Holds the tensor until it is called, or its pages would go while they are locked."""
    torch.cuda.synchronize(device)
    with torch.cuda.device(device):
        torch.cuda.cudart().cudaHostUnregister(host.data_ptr())
