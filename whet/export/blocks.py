"""One matrix to the bytes of a GGUF tensor type."""

from __future__ import annotations

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from whet.errors import ExportError
from whet.export.quants import encode_blocks

_WIDTHS = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}
FLOAT16_LIMIT = 65504.0


def encode(
    tensor: torch.Tensor,
    kind: Type,
    importance: torch.Tensor | None = None,
    device: torch.device | None = None,
    name: str = "a tensor",
) -> np.ndarray:
    """The tensor as ``kind``.

    Args:
        tensor: any float type, on the CPU; for a block type its last dimension is a multiple of the block.
        importance: mean squared input of each column, for a block type.
        device: where a block type is computed; None is where the tensor is.
        name: of the tensor, for messages.

    Returns:
        float32 or float16 in the tensor's shape, else uint8 with the last dimension in bytes.

    Raises:
        ExportError: the tensor holds a number that the type cannot.
    """
    if kind not in _WIDTHS:
        try:
            return encode_blocks(tensor, kind, importance, device).numpy()
        except ValueError as error:
            raise _not_finite(name) from error
    check_range(tensor, kind, name)
    converted = tensor.to(_WIDTHS[kind]).contiguous()
    return converted.view(torch.uint8).numpy() if kind == Type.BF16 else converted.numpy()


def check_range(tensor: torch.Tensor, kind: Type, name: str = "a tensor") -> None:
    """Raise :class:`ExportError` for infinities and NaN, and for what float16 cannot hold where it is asked for."""
    low, high = torch.aminmax(tensor)
    largest = max(-float(low), float(high))
    if not np.isfinite(largest):
        raise _not_finite(name)
    if kind == Type.F16 and largest > FLOAT16_LIMIT:
        raise ExportError(
            f"{name} holds a weight of {largest:.3g}", f"at most {FLOAT16_LIMIT:.0f} in f16", "export as bf16 or f32"
        )


def _not_finite(name: str) -> ExportError:
    return ExportError(
        f"{name} holds a weight that is infinite or not a number",
        "finite weights",
        "train again with a lower learning rate",
    )


def encoded_bytes(shape: tuple[int, ...], kind: Type) -> int:
    """How many bytes :func:`encode` gives for a shape."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape, dtype=np.int64)) // block * size
