"""A matrix cut into chunks that stay in a core's cache (or fill a GPU), each encoded on its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

CPU_WEIGHTS = 2**17  # half a megabyte for each temporary
GPU_WEIGHTS = 2**22


@dataclass(frozen=True)
class Blocks:
    """N blocks of B weights, and what is known of them. Float32.

    ``importance_BN``: mean squared input of each weight's column. ``row_square_N``: mean square of a block's row.
    """

    x_BN: torch.Tensor
    importance_BN: torch.Tensor | None
    row_square_N: torch.Tensor

    def split(self, value_BN: torch.Tensor, sub_blocks: int) -> torch.Tensor:
        """[S * W, N] as [S, W, N], without a copy."""
        return value_BN.view(sub_blocks, -1, value_BN.shape[-1])

    def weighted(self, square_N: torch.Tensor) -> torch.Tensor:
        """The importance of each weight in a search: ``importance * sqrt(square + x^2)``, as ggml has it."""
        assert self.importance_BN is not None
        return torch.addcmul(square_N, self.x_BN, self.x_BN).sqrt_().mul_(self.importance_BN)


Encoder = Callable[[Blocks], torch.Tensor]
"""[B, N] weights to [bytes of a block, N] uint8."""


def encode_matrix(
    weight_OI: torch.Tensor,
    encoder: Encoder,
    block: int,
    block_bytes: int,
    importance_I: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Encode a matrix, chunk by chunk; memory beside the two matrices stays small.

    Args:
        weight_OI: any float type, on any device; columns a multiple of ``block``.
        device: where to compute; None is where the matrix is.

    Returns:
        uint8 of shape [rows, columns / block * block_bytes], on the matrix's device.

    Raises:
        ValueError: a weight that is not finite.
    """
    rows, columns = weight_OI.shape
    encoded = torch.empty(rows, columns // block * block_bytes, dtype=torch.uint8, device=weight_OI.device)
    device = weight_OI.device if device is None else device
    importance_I = None if importance_I is None else importance_I.to(device, torch.float32)
    step = max(1, (CPU_WEIGHTS if device.type == "cpu" else GPU_WEIGHTS) // columns)

    def encode_rows(first: int) -> None:
        rows_RI = weight_OI[first : first + step].to(device).float()
        low, high = torch.aminmax(rows_RI)
        if not torch.isfinite(high - low):
            raise ValueError("infinite or not a number")
        blocks = _blocks(rows_RI, block, importance_I)
        packed = encoder(blocks)
        encoded[first : first + step] = packed.t().reshape(len(rows_RI), -1)

    _each(encode_rows, range(0, rows, step), device)
    return encoded


def _blocks(rows_RI: torch.Tensor, block: int, importance_I: torch.Tensor | None) -> Blocks:
    x_BN = rows_RI.reshape(-1, block).t().contiguous()
    if importance_I is None:
        return Blocks(x_BN, None, x_BN[0])
    importance_RI = importance_I.expand_as(rows_RI)
    square_R1 = rows_RI.square().mean(1, keepdim=True)
    square_N = square_R1.expand(-1, rows_RI.shape[1] // block).reshape(-1)
    return Blocks(x_BN, importance_RI.reshape(-1, block).t().contiguous(), square_N)


def _each(work: Callable[[int], None], firsts: range, device: torch.device) -> None:
    """One chunk per thread instead of torch's many threads per operation.

    The operations are short. Where other programs use the cores too, torch's threads wait for each other at the end of
    each one: measured on two shared cores, a tenth of the speed.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(firsts) == 1:
        for first in firsts:
            work(first)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, firsts))
    finally:
        torch.set_num_threads(threads)
