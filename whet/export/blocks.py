"""One float32 matrix to the bytes of a GGUF tensor type."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from whet.export.kquants import encode_q4_k, encode_q6_k

_OWN = {Type.Q4_K: encode_q4_k, Type.Q6_K: encode_q6_k}  # the gguf package reads these, but does not write them


def encode(tensor: torch.Tensor, kind: Type) -> np.ndarray:
    """The tensor as ``kind``.

    Args:
        tensor: float32, on the CPU; for a block type its last dimension is a multiple of the block.

    Returns:
        float32 or float16 in the tensor's shape, else uint8 with the last dimension in bytes.
    """
    if kind == Type.F32:
        return tensor.contiguous().numpy()
    if kind == Type.F16:
        return tensor.half().contiguous().numpy()
    if kind == Type.BF16:
        return tensor.bfloat16().contiguous().view(torch.uint8).numpy()
    if kind in _OWN:
        return _OWN[kind](tensor).numpy()
    return gguf.quants.quantize(tensor.contiguous().numpy(), kind)


def encoded_bytes(shape: tuple[int, ...], kind: Type) -> int:
    """How many bytes :func:`encode` gives for a shape."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape, dtype=np.int64)) // block * size
