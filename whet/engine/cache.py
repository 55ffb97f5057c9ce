"""Keys and values of the sequences that are being continued, in memory that never moves.

S slots, G key/value heads, E head size, N chunks of L positions; a layer's tensors are k_NSGLE and v_NSGLE
(``kernels/decode_attention.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whet.engine.spec import LayerSpec
from whet.errors import ModelError

CHUNK = {"cpu": 64, "cuda": 128}  # positions of a chunk
RESERVE = 1 << 29  # bytes of a GPU that stay free: activations, and libraries that allocate beside torch


class Cache:
    """Room for ``slots`` sequences of up to ``positions`` tokens, rounded up to whole chunks.

    Raises:
        ModelError: the device has not that much free memory.
    """

    def __init__(
        self, specs: Sequence[LayerSpec], slots: int, positions: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.chunk = CHUNK.get(device.type, CHUNK["cuda"])
        self.slots, self.chunks = slots, -(-positions // self.chunk)
        shapes = [(self.chunks, slots, spec.kv_heads, self.chunk, spec.head_dim) for spec in specs]
        _check_room(2 * sum(_count(shape) for shape in shapes) * dtype.itemsize, slots, self.positions, device)
        self.layers = [
            (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
            for shape in shapes
        ]

    @property
    def positions(self) -> int:
        """Tokens that fit into a slot."""
        return self.chunks * self.chunk

    def put(
        self, layer: int, k_TGE: torch.Tensor, v_TGE: torch.Tensor, slots_T: torch.Tensor, positions_T: torch.Tensor
    ) -> None:
        """Keys and values of many tokens at their places."""
        chunk_T, offset_T = positions_T // self.chunk, positions_T % self.chunk
        for memory, values in zip(self.layers[layer], (k_TGE, v_TGE), strict=True):
            memory[chunk_T, slots_T, :, offset_T] = values

    def front(self, layer: int, used: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's memory; with ``used``, only the chunks that the first ``used`` positions need."""
        k, v = self.layers[layer]
        count = self.chunks if used is None else -(-used // self.chunk)
        return k[:count], v[:count]

    def copy_from(self, other: Cache) -> None:
        """The keys and values of a smaller cache with as many slots."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            for memory, old in zip(mine, theirs, strict=True):
                memory[: len(old)] = old

    def keep(self, slots: torch.Tensor) -> None:
        """Only these slots, in this order, in new memory."""
        self.layers = [(k.index_select(1, slots), v.index_select(1, slots)) for k, v in self.layers]
        self.slots = len(slots)


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _check_room(needed: int, slots: int, positions: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if needed > free - RESERVE:
        raise ModelError(
            f"keys and values of {slots:,} sequences of {positions:,} tokens take {needed / 2**30:.1f} GiB, "
            f"the GPU has {max(0, free - RESERVE) / 2**30:.1f} GiB left",
            fix="fewer sequences at once, shorter prompts, or a smaller max_new_tokens",
        )
