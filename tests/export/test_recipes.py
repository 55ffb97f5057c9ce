from __future__ import annotations

import gguf
import pytest

from whet.errors import ExportError
from whet.export.recipes import ALIASES, QUANTS, quant_name, tensor_type

Type = gguf.GGMLQuantizationType


@pytest.mark.parametrize("quant", QUANTS)
def test_vectors_and_norms_stay_float32(quant: str) -> None:
    assert tensor_type(quant, "blk.0.attn_q.bias", (512,), 4, True) == Type.F32
    assert tensor_type(quant, "blk.0.attn_norm.weight", (512,), 4, True) == Type.F32


def test_q4_k_m_gives_more_bits_where_llamacpp_does() -> None:
    """The layers with more bits in a 32-layer model, as in llama.cpp's own Q4_K_M files."""
    kinds = [tensor_type("q4_k_m", f"blk.{layer}.ffn_down.weight", (4096, 14336), 32, False) for layer in range(32)]
    more = [layer for layer, kind in enumerate(kinds) if kind == Type.Q6_K]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert tensor_type("q4_k_m", "blk.4.attn_v.weight", (1024, 4096), 32, False) == Type.Q4_K
    assert tensor_type("q4_k_m", "output.weight", (128256, 4096), 32, False) == Type.Q6_K
    assert tensor_type("q4_k_m", "token_embd.weight", (128256, 4096), 32, False) == Type.Q4_K
    assert tensor_type("q4_k_m", "token_embd.weight", (4096, 512), 4, True) == Type.Q6_K


def test_rows_that_do_not_fit_a_super_block() -> None:
    assert tensor_type("q4_k_m", "blk.0.attn_q.weight", (96, 96), 8, False) == Type.Q5_0
    assert tensor_type("q6_k", "blk.0.attn_q.weight", (96, 96), 8, False) == Type.Q8_0
    assert tensor_type("q8_0", "blk.0.attn_q.weight", (50, 50), 8, False) == Type.F16


def test_names() -> None:
    assert quant_name("Q4_K_M") == "q4_k_m"
    assert [quant_name(alias) for alias in ALIASES] == ["f16", "q8_0", "q4_k_m"]
    with pytest.raises(ExportError, match="one of f32"):
        quant_name("q9_z")
