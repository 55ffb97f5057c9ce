"""ggml's own block encoder, taken from xllamacpp's extension module: the yardstick for ours."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np


def ggml_encode(
    weight: np.ndarray, kind: gguf.GGMLQuantizationType, importance: np.ndarray | None = None
) -> np.ndarray:
    """A float32 matrix as ggml encodes it, with one importance for each column; uint8."""
    import xllamacpp.xllamacpp as extension

    library = ctypes.CDLL(extension.__file__)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (
        [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    )
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    encoded = np.empty(gguf.quant_shape_to_byte_shape(weight.shape, kind), dtype=np.uint8)
    library.ggml_quantize_init(int(kind))
    rows, columns = weight.shape
    known = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    place = None if known is None else known.ctypes.data
    written = library.ggml_quantize_chunk(int(kind), weight.ctypes.data, encoded.ctypes.data, 0, rows, columns, place)
    assert written == encoded.nbytes
    return encoded
