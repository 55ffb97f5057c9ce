"""ggml's block formats, encoded with plain torch operations: no compiler, no binary, any device.

One file for each kind of format (offset, signed, plain), over shared searches, packing and chunks. Formats: ggml's
``ggml-common.h``; what is searched and how: ``search.py``.
"""

from __future__ import annotations

import gguf
import torch
from gguf import GGMLQuantizationType as Type

from whet.export.quants.chunks import Encoder, encode_matrix
from whet.export.quants.offset import encode_q2_k, encode_q4_k, encode_q5_k
from whet.export.quants.plain import encode_q4_0, encode_q4_1, encode_q5_0, encode_q5_1, encode_q8_0
from whet.export.quants.signed import encode_q3_k, encode_q6_k

ENCODERS: dict[Type, Encoder] = {
    Type.Q2_K: encode_q2_k,
    Type.Q3_K: encode_q3_k,
    Type.Q4_K: encode_q4_k,
    Type.Q5_K: encode_q5_k,
    Type.Q6_K: encode_q6_k,
    Type.Q4_0: encode_q4_0,
    Type.Q4_1: encode_q4_1,
    Type.Q5_0: encode_q5_0,
    Type.Q5_1: encode_q5_1,
    Type.Q8_0: encode_q8_0,
}


def encode_blocks(
    weight_OI: torch.Tensor,
    kind: Type,
    importance_I: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Encode a matrix in a block format.

    Args:
        weight_OI: any float type; columns a multiple of the format's block (256, or 32 for ``Q?_0`` and ``Q?_1``).
        importance_I: mean squared input of each column (an importance matrix's row); None weighs by the weights alone.
        device: where to compute; None is where the matrix is.

    Returns:
        uint8 of shape [rows, bytes of a row], on the matrix's device.
    """
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return encode_matrix(weight_OI, ENCODERS[kind], block, block_bytes, importance_I, device)


__all__ = ["ENCODERS", "encode_blocks"]
