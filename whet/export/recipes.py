"""Which type each tensor gets in a quantisation.

The mixes are llama.cpp's (``llama-quant.cpp``) for dense models, so that a file of ours has the size and the quality
that people expect under its name.
"""

from __future__ import annotations

import gguf
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType as FileType

from whet.errors import ExportError

# name -> (type of the matrices, the file type that GGUF records)
_RECIPES: dict[str, tuple[Type, FileType]] = {
    "f32": (Type.F32, FileType.ALL_F32),
    "f16": (Type.F16, FileType.MOSTLY_F16),
    "bf16": (Type.BF16, FileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, FileType.MOSTLY_Q8_0),
    "q6_k": (Type.Q6_K, FileType.MOSTLY_Q6_K),
    "q4_k_m": (Type.Q4_K, FileType.MOSTLY_Q4_K_M),
}
QUANTS = tuple(_RECIPES)
ALIASES = {"not_quantized": "f16", "fast_quantized": "q8_0", "quantized": "q4_k_m"}
_WHEN_ROWS_DO_NOT_FIT = {Type.Q4_K: Type.Q5_0, Type.Q6_K: Type.Q8_0}


def quant_name(asked: str) -> str:
    """The quantisation meant by a name or an alias, in any case.

    Raises:
        ExportError: no such quantisation.
    """
    name = asked.strip().lower()
    name = ALIASES.get(name, name)
    if name not in _RECIPES:
        raise ExportError(
            f"no quantisation {asked!r}", f"one of {', '.join(QUANTS)} (or {', '.join(ALIASES)})", "name one of these"
        )
    return name


def file_type(quant: str) -> FileType:
    """The number that GGUF records for a quantisation."""
    return _RECIPES[quant][1]


def tensor_type(quant: str, name: str, shape: tuple[int, ...], layers: int, tied: bool) -> Type:
    """The type of one tensor.

    Args:
        name: the tensor's name in GGUF.
        layers: decoder layers of the model.
        tied: whether the embedding is also the output matrix.
    """
    if len(shape) == 1 or name.endswith("_norm.weight"):
        return Type.F32
    wanted = _RECIPES[quant][0]
    if wanted in (Type.Q4_K, Type.Q6_K):
        wanted = _mixed(wanted, name, layers, tied)
    for candidate in (wanted, _WHEN_ROWS_DO_NOT_FIT.get(wanted, Type.F16), Type.F16):
        if shape[-1] % gguf.GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    return Type.F16


def _mixed(wanted: Type, name: str, layers: int, tied: bool) -> Type:
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return Type.Q6_K
    if name.endswith(("attn_v.weight", "ffn_down.weight")) and _deserves_more_bits(int(name.split(".")[1]), layers):
        return Type.Q6_K
    return wanted


def _deserves_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
