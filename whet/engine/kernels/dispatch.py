"""What every kernel and its plain twin share: who computes, in which dtype, and how many rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from whet.engine.kernels.available import triton_problem
from whet.engine.kernels.launch import is_noting

# Elements of a block of rows in a plain twin. Its float32 temporaries (512 KiB each) stay in the cache, and large ones
# cost page faults: the GLU's backward on 2,048 x 1,536 bfloat16, one core, took 11.6 ms in such blocks, 56.8 ms whole.
BLOCK_ELEMENTS = 1 << 17


def uses_triton(tensor: torch.Tensor) -> bool:
    """CUDA tensors go to Triton where it runs (they must lie on the current device); float64 goes to the twin.

    Where launches are only noted (``launch.noted``), tensors of any device go there.
    """
    if is_noting():
        return tensor.dtype != torch.float64
    return tensor.is_cuda and tensor.dtype != torch.float64 and not triton_problem()


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a twin computes in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` elements, about BLOCK_ELEMENTS elements at a time."""
    step = max(1, BLOCK_ELEMENTS // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def need_rows(*tensors: torch.Tensor) -> None:
    """Raise ValueError unless the last dimension of each tensor lies without gaps."""
    for tensor in tensors:
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} has strides {tensor.stride()}: "
                "kernels take any strides but need the last dimension contiguous; call .contiguous() first"
            )
