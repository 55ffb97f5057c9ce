from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from whet.errors import ExportError
from whet.export.recipes import ALIASES, QUANTS, Mix, quant_name, tensor_type

Type = gguf.GGMLQuantizationType
MIX = Mix("llama", 4, 8, 2, True)
LARGE = Mix("llama", 32, 32, 8, False)


@pytest.mark.parametrize("quant", QUANTS)
def test_vectors_and_norms_stay_float32(quant: str) -> None:
    assert tensor_type(quant, "blk.0.attn_q.bias", (512,), MIX) == Type.F32
    assert tensor_type(quant, "blk.0.attn_norm.weight", (512,), MIX) == Type.F32


def test_q4_k_m_gives_more_bits_where_llamacpp_does() -> None:
    """The layers with more bits in a 32-layer model, as in llama.cpp's own Q4_K_M files."""
    kinds = [tensor_type("q4_k_m", f"blk.{layer}.ffn_down.weight", (4096, 14336), LARGE) for layer in range(32)]
    more = [layer for layer, kind in enumerate(kinds) if kind == Type.Q6_K]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert tensor_type("q4_k_m", "blk.4.attn_v.weight", (1024, 4096), LARGE) == Type.Q4_K
    assert tensor_type("q4_k_m", "output.weight", (128256, 4096), LARGE) == Type.Q6_K
    assert tensor_type("q4_k_m", "token_embd.weight", (128256, 4096), LARGE) == Type.Q4_K
    assert tensor_type("q4_k_m", "token_embd.weight", (4096, 512), MIX) == Type.Q6_K


def test_rows_that_do_not_fit_a_super_block() -> None:
    assert tensor_type("q4_k_m", "blk.0.attn_q.weight", (96, 96), LARGE) == Type.Q5_0
    assert tensor_type("q6_k", "blk.0.attn_q.weight", (96, 96), LARGE) == Type.Q8_0
    assert tensor_type("q8_0", "blk.0.attn_q.weight", (50, 50), LARGE) == Type.F16


def test_names() -> None:
    assert quant_name("Q4_K_M") == "q4_k_m"
    assert [quant_name(alias) for alias in ALIASES] == ["f16", "q8_0", "q4_k_m"]
    with pytest.raises(ExportError, match="one of f32"):
        quant_name("q9_z")


RECORDED = json.loads((Path(__file__).parent / "llamacpp_types.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", RECORDED["models"])
def test_every_tensor_has_the_type_that_llamacpp_gives_it(model: str) -> None:
    """Files that llama.cpp's own quantiser wrote for a tiny model of each family (scripts/llamacpp_types.py)."""
    facts = RECORDED["models"][model]
    assert {case["quant"] for case in facts["cases"]} == set(QUANTS) - {"f32", "f16", "bf16"}
    differs = {case["quant"] for case in facts["cases"] if case["weighted"]}  # with an importance matrix
    for case in facts["cases"]:
        for weighted in {case["weighted"]} | ({True} - {case["quant"] in differs}):
            mix = Mix(**facts["mix"], weighted=weighted)
            for name, shape in facts["shapes"].items():
                found = tensor_type(case["quant"], name, tuple(shape), mix).name
                assert found == case["others"].get(name, case["most"]), (case["quant"], weighted, name)


SNAPSHOTS = {
    "meta-llama-3.1-70b-instruct": "llama",
    "qwen3-0.6b": "qwen3",
    "qwen3-14b": "qwen3",
    "gemma-3-4b-it": "gemma3",
}


@pytest.mark.parametrize("model", SNAPSHOTS)
def test_full_size_models_as_in_the_snapshots_of_llamacpp(model: str) -> None:
    """llama.cpp keeps the types of whole models as a regression test; these are its files."""
    from real_files import real_snapshots

    text = real_snapshots()[model]
    size = {key: int(value) for key, value in re.findall(r"(n_\w+)=(\d+)", text)}
    mix = Mix(SNAPSHOTS[model], size["n_layer"], size["n_head"], size["n_head_kv"], "\noutput.weight" not in text)
    checked = 0
    for quant, default, named in _sections(text):
        checked += 1
        for name, columns in _matrices(size):
            expected = named.get(name, default)
            if name == "token_embd.weight" and mix.tied and name not in named:
                continue
            assert tensor_type(quant, name, (256, columns), mix).name.lower() == expected, (quant, name)
    assert checked == len(QUANTS)


def _sections(text: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    for title, default, lines in re.findall(r"^\[(\w+)\] (\w+)\n((?:[^\[\n].*\n)*)", text, re.MULTILINE):
        if title.lower() in QUANTS:
            yield title.lower(), default.lower(), {n: k.lower() for n, k in map(str.split, lines.splitlines())}


def _matrices(size: dict[str, int]) -> Iterator[tuple[str, int]]:
    yield "token_embd.weight", size["n_embd"]
    for layer in range(size["n_layer"]):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_gate"):
            yield f"blk.{layer}.{part}.weight", size["n_embd"]
        yield f"blk.{layer}.ffn_down.weight", size["n_ff"]
