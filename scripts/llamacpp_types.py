"""Which type llama.cpp's own quantiser gives every tensor of a tiny model of each family: a record for the tests.

    python scripts/llamacpp_types.py LIBLLAMA.so VERSION

LIBLLAMA.so is any build of llama.cpp that exports ``llama_model_quantize`` (``cmake -B build && cmake --build build -t
llama``; the package @node-llama-cpp/linux-x64 on npm holds one). Written: tests/export/llamacpp_types.json.
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

from whet.console import write_text_atomic
from whet.export.gguf import write_gguf
from whet.export.recipes import QUANTS, Mix, file_type
from whet.export.tensors import CheckpointSource
from whet.models.names import starter_folder

OUT = Path(__file__).resolve().parents[1] / "tests" / "export" / "llamacpp_types.json"
LARGE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 9, "num_attention_heads": 8,
         "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
SMALL = LARGE | {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 4, "num_hidden_layers": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, untied": ("Llama", LARGE),
    "llama, tied, two heads a value": ("Llama", LARGE | {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama, narrow rows": ("Llama", SMALL),
    "llama, narrow rows, tied": ("Llama", SMALL | {"tie_word_embeddings": True}),
    "llama, rows of 80": ("Llama", SMALL | {"hidden_size": 80, "head_dim": 20, "num_hidden_layers": 2}),
    "llama, 80 layers": ("Llama", LARGE | {"num_hidden_layers": 80, "intermediate_size": 256}),
    "qwen2": ("Qwen2", {key: value for key, value in LARGE.items() if key != "head_dim"}),
    "qwen3": ("Qwen3", LARGE | {"tie_word_embeddings": True}),
    "mistral": ("Mistral", LARGE | {"num_hidden_layers": 32}),
    "gemma2": ("Gemma2", LARGE | {"query_pre_attn_scalar": 32}),
    "gemma3": ("Gemma3", LARGE | {"query_pre_attn_scalar": 32}),
    "phi3": ("Phi3", {key: value for key, value in LARGE.items() if key != "head_dim"} | {"pad_token_id": 0}),
}


class _Importance(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class _Params(ctypes.Structure):
    """llama_model_quantize_params of llama.h."""

    _fields_ = [
        ("nthread", ctypes.c_int32), ("ftype", ctypes.c_int), ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int), ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool), ("only_copy", ctypes.c_bool), ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool), ("dry_run", ctypes.c_bool), ("imatrix", ctypes.POINTER(_Importance)),
        ("kv_overrides", ctypes.c_void_p), ("tt_overrides", ctypes.c_void_p), ("prune_layers", ctypes.c_void_p),
        ("max_buf_size", ctypes.c_size_t),
    ]  # fmt: skip


def tiny_model(kind: str, settings: dict[str, Any], folder: Path) -> None:
    """A random model with the starter's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(starter_folder())
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    name = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **settings
    )
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)


def quantised(
    library: Any, source: Path, target: Path, quant: str, importance: dict[str, np.ndarray]
) -> dict[str, str]:
    """Tensor name -> type, after llama.cpp has quantised the file. Vectors are left out."""
    library.llama_model_quantize_default_params.restype = _Params
    params = library.llama_model_quantize_default_params()
    params.nthread, params.ftype = 2, int(file_type(quant))
    if importance:
        entries = [_Importance(name.encode(), row.ctypes.data, row.size) for name, row in importance.items()]
        params.imatrix = (_Importance * (len(entries) + 1))(*entries, _Importance(None, None, 0))
    failed = library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if failed:
        raise SystemExit(f"llama.cpp did not quantise {source} as {quant}")
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors if len(tensor.shape) > 1}


def facts_of(library: Any, kind: str, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    tiny_model(kind, settings, folder)
    source = CheckpointSource(folder)
    whole = write_gguf(source, folder, folder / "f32.gguf", "f32", name="tiny")
    tensors = [tensor for tensor in gguf.GGUFReader(whole).tensors if len(tensor.shape) > 1]
    shapes = {tensor.name: [int(size) for size in reversed(tensor.shape)] for tensor in tensors}
    importance = {name: np.ones(shape[-1], dtype=np.float32) for name, shape in shapes.items()}
    cases = []
    for quant in QUANTS:
        if quant not in ("f32", "f16", "bf16"):
            plain, weighted = (quantised(library, whole, folder / "q.gguf", quant, known) for known in ({}, importance))
            cases.append(case(quant, False, plain))
            cases += [case(quant, True, weighted)] if weighted != plain else []
    arch = gguf.GGUFReader(whole).fields["general.architecture"].contents()
    mix = Mix.of(source.config, arch)
    named = {name: getattr(mix, name) for name in ("arch", "layers", "heads", "kv_heads", "tied")}
    return {"mix": named, "shapes": shapes, "cases": cases}


def case(quant: str, weighted: bool, types: dict[str, str]) -> dict[str, Any]:
    """The types, short: the commonest, and the tensors that have another."""
    most = Counter(types.values()).most_common(1)[0][0]
    others = {name: kind for name, kind in types.items() if kind != most}
    return {"quant": quant, "weighted": weighted, "most": most, "others": others}


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    models = {}
    for name, (kind, settings) in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            models[name] = facts_of(library, kind, settings, Path(scratch))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in models.items())
    write_text_atomic(OUT, f'{{"llama.cpp": {json.dumps(sys.argv[2])}, "models": {{\n{lines}\n}}}}\n')
    print(OUT)


if __name__ == "__main__":
    main()
