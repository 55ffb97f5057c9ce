"""Which type each tensor gets in a quantisation.

The mixes are llama.cpp's (``llama-quant.cpp``) for dense models, so that a file of ours has the size and the quality
that people expect under its name. The test compares every tensor with llama.cpp's own choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    "q5_k_m": (Type.Q5_K, FileType.MOSTLY_Q5_K_M),
    "q5_k_s": (Type.Q5_K, FileType.MOSTLY_Q5_K_S),
    "q5_0": (Type.Q5_0, FileType.MOSTLY_Q5_0),
    "q4_k_m": (Type.Q4_K, FileType.MOSTLY_Q4_K_M),
    "q4_k_s": (Type.Q4_K, FileType.MOSTLY_Q4_K_S),
    "q4_0": (Type.Q4_0, FileType.MOSTLY_Q4_0),
    "q3_k_m": (Type.Q3_K, FileType.MOSTLY_Q3_K_M),
    "q2_k": (Type.Q2_K, FileType.MOSTLY_Q2_K),
}
QUANTS = tuple(_RECIPES)
ALIASES = {"not_quantized": "f16", "fast_quantized": "q8_0", "quantized": "q4_k_m"}
_UNQUANTISED = (Type.F32, Type.F16, Type.BF16)
_WHEN_ROWS_DO_NOT_FIT = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}


@dataclass(frozen=True)
class Mix:
    """What the choice of types depends on, beside a tensor's name and shape.

    Args:
        tied: whether the embedding is also the output matrix.
        weighted: whether there is an importance matrix.
    """

    arch: str
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    weighted: bool = False

    @classmethod
    def of(cls, config: dict[str, Any], arch: str, weighted: bool = False) -> Mix:
        """The mix for a transformers config."""
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        tied = bool(config.get("tie_word_embeddings"))
        return cls(arch, config["num_hidden_layers"], heads, kv_heads, tied, weighted)

    @property
    def narrow_values(self) -> bool:
        """Four or more heads share a value, so that its matrix is small and worth more bits."""
        return self.heads // self.kv_heads >= 4

    @property
    def size_70b(self) -> bool:
        """The models of 80 layers for which llama.cpp spends more on values."""
        return self.layers == 80 and (self.arch == "qwen2" or (self.arch == "llama" and self.heads != self.kv_heads))


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


def tensor_type(quant: str, name: str, shape: tuple[int, ...], mix: Mix) -> Type:
    """The type of one tensor, by its name in GGUF."""
    if len(shape) == 1 or not name.endswith("weight") or name.endswith("_norm.weight"):
        return Type.F32
    wanted = _RECIPES[quant][0]
    if wanted in _UNQUANTISED:
        return wanted
    wanted = _mixed(quant, name, wanted, mix)
    for candidate in (wanted, _WHEN_ROWS_DO_NOT_FIT.get(wanted, Type.F16)):
        if shape[-1] % gguf.GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    return Type.F16


def _mixed(quant: str, name: str, wanted: Type, mix: Mix) -> Type:
    if name == "output.weight" or (mix.tied and name == "token_embd.weight"):
        return Type.Q8_0 if wanted == Type.Q8_0 else Type.Q6_K
    if not name.startswith("blk."):
        return wanted
    _, number, part = name.split(".", 2)
    if part in ("attn_v.weight", "attn_qkv.weight"):
        return _value_type(quant, int(number), wanted, mix)
    if part == "ffn_down.weight":
        return _down_type(quant, int(number), wanted, mix)
    if part == "attn_output.weight":
        return {"q2_k": Type.Q3_K, "q3_k_m": Type.Q4_K}.get(quant, wanted)
    return wanted


def _value_type(quant: str, layer: int, wanted: Type, mix: Mix) -> Type:
    if quant == "q2_k":
        wanted = Type.Q4_K if mix.narrow_values else Type.Q3_K
    elif quant == "q3_k_m":
        wanted = Type.Q5_K if layer < 2 else Type.Q4_K
    elif quant in ("q4_k_m", "q5_k_m") and _deserves_more_bits(layer, mix.layers):
        wanted = Type.Q6_K
    elif quant == "q4_k_s" and layer < 4:
        wanted = Type.Q5_K
    if mix.size_70b and wanted in (Type.Q3_K, Type.Q4_K):
        return Type.Q5_K
    return wanted


def _down_type(quant: str, layer: int, wanted: Type, mix: Mix) -> Type:
    first_eighth = layer < mix.layers // 8
    if quant == "q2_k":
        return Type.Q3_K
    if quant == "q3_k_m":
        return Type.Q5_K if layer < mix.layers // 16 else Type.Q4_K
    if quant in ("q4_k_m", "q5_k_m") and _deserves_more_bits(layer, mix.layers):
        return Type.Q6_K
    if quant == "q4_k_s" and first_eighth:
        return Type.Q5_K
    if mix.weighted and first_eighth:
        return {"q4_0": Type.Q4_1, "q5_0": Type.Q5_1}.get(quant, wanted)
    return wanted


def _deserves_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
