"""Files that llama.cpp reads as the same model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from conftest import THREADS

from whet.errors import ExportError, OutputError
from whet.export.families import rope_tensors
from whet.export.gguf import safe_name, write_gguf
from whet.export.tensors import CheckpointSource
from whet.export.verify import verify_gguf

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "own head size, biases, untied": ("Llama", {"head_dim": 24, "attention_bias": True, "mlp_bias": True}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "llama3 rope": ("Llama", {"rope_parameters": LLAMA3}),
    "linear rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}}),
    "yarn rope": ("Qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                               "original_max_position_embeddings": 256}}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"rms_norm_eps": 1e-5}),
}  # fmt: skip


def _model(kind: str, settings: dict[str, Any], tokenizer_dir: Path, folder: Path) -> Any:
    import transformers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer) + 9, **(SIZES | settings))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms of one and biases of zero would hide a mistake
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_file_is_the_model(variant: str, tiny_llama_dir: Path, needs_llamacpp: None, tmp_path: Path) -> None:
    kind, settings = VARIANTS[variant]
    model, tokenizer = _model(kind, settings, tiny_llama_dir, tmp_path)
    file = write_gguf(CheckpointSource(tmp_path), tmp_path, tmp_path / "m.gguf", "f32", name=variant)
    long = [[{"role": "user", "content": "How many orders were shipped in March? " * 12}]]
    verdict = verify_gguf(file, model, tokenizer, long, positions=24, threads=THREADS)
    assert verdict.quant == "f32"
    assert verdict.tokens_identical
    assert verdict.max_abs_logprob_diff <= 1e-3
    assert verdict.passed


@pytest.mark.parametrize("which", ["tiny_llama_dir", "tiny_qwen2_dir"])
def test_quantisations_are_ordered(
    which: str, request: pytest.FixtureRequest, needs_llamacpp: None, load_float32: Callable[..., Any], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = request.getfixturevalue(which)
    model, tokenizer = load_float32(folder), AutoTokenizer.from_pretrained(folder)
    verdicts = []
    for quant in ("f32", "f16", "q8_0", "q6_k", "q4_k_m"):
        file = write_gguf(CheckpointSource(folder), folder, tmp_path / f"{quant}.gguf", quant, name="tiny")
        verdicts.append(verify_gguf(file, model, tokenizer, positions=12, threads=THREADS))
    assert [verdict.quant for verdict in verdicts] == ["f32", "f16", "q8_0", "q6_k", "q4_k_m"]
    assert [verdict for verdict in verdicts if not verdict.passed] == []
    means = [verdict.kl_mean for verdict in verdicts]
    assert means == sorted(means)
    assert verdicts[0].max_abs_logprob_diff <= 1e-3
    assert verdicts[2].kl_mean <= 0.01


def test_llama3_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(**SIZES, rope_parameters=LLAMA3 | {"rope_theta": 500000.0})
    scaled_F, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain_F = 1.0 / 500000.0 ** (torch.arange(0, 16, 2).double() / 16)
    (found_F,) = rope_tensors(config.to_dict()).values()
    torch.testing.assert_close(found_F, (plain_F / scaled_F).float(), rtol=1e-5, atol=0)


def test_same_model_same_bytes(tiny_llama_dir: Path, tmp_path: Path) -> None:
    files = [
        write_gguf(CheckpointSource(tiny_llama_dir), tiny_llama_dir, tmp_path / name, "q4_k_m", name="tiny")
        for name in ("a.gguf", "b.gguf")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def _field(file: Path, key: str) -> Any:
    field = gguf.GGUFReader(file).fields.get(key)
    return None if field is None else field.contents()


@pytest.mark.parametrize(
    ("given", "want"), [(None, "the tokenizer's"), ("", None), ("{{ messages }}", "{{ messages }}")]
)
def test_chat_template_in_the_file(given: str | None, want: str | None, tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = CheckpointSource(tiny_llama_dir)
    file = write_gguf(source, tiny_llama_dir, tmp_path / "m.gguf", "f16", name="tiny", chat_template=given)
    own = (tiny_llama_dir / "chat_template.jinja").read_text()
    assert _field(file, "tokenizer.chat_template") == (own if want == "the tokenizer's" else want)


def test_metadata(tiny_qwen2_dir: Path, tmp_path: Path) -> None:
    source = CheckpointSource(tiny_qwen2_dir)
    file = write_gguf(source, tiny_qwen2_dir, tmp_path / "m.gguf", "f16", name="my\nphi-3 like", context_length=9999)
    assert _field(file, "general.name") == "my phi_3 like"
    assert _field(file, "general.architecture") == "qwen2"
    assert _field(file, "qwen2.context_length") == 512  # never more than the model can
    assert _field(file, "tokenizer.ggml.eos_token_id") == 2
    assert _field(file, "tokenizer.ggml.padding_token_id") == 3
    assert safe_name("Phi-3-mini", like_phi3=True) == "Phi-3-mini"
    assert safe_name("orders", like_phi3=True) == "orders (phi-3)"


def test_norms_are_float32_and_the_rest_decodes(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source = CheckpointSource(tiny_llama_dir)
    file = write_gguf(source, tiny_llama_dir, tmp_path / "m.gguf", "q4_k_m", name="tiny")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    assert tensors["output_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    assert tensors["token_embd.weight"].tensor_type == gguf.GGMLQuantizationType.Q6_K
    assert "output.weight" not in tensors  # tied
    name, want = "blk.0.ffn_up.weight", source.get("model.layers.0.mlp.up_proj.weight").numpy()
    assert tensors[name].tensor_type == gguf.GGMLQuantizationType.Q4_K
    decoded = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
    assert np.abs(decoded - want).max() < 0.15 * np.abs(want).max()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"architectures": ["Gemma9ForCausalLM"]}, "Gemma9ForCausalLM.*\n.*LlamaForCausalLM"),
        ({"architectures": ["Qwen2MoeForCausalLM"]}, "nearest: Qwen2ForCausalLM"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
    ],
)
def test_what_cannot_be_written_is_named(
    change: dict[str, Any], word: str, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=word):
        write_gguf(CheckpointSource(folder), folder, tmp_path / "out" / "m.gguf", "f16", name="m")
    assert not list(tmp_path.glob("out/*"))


def test_a_full_disk_leaves_nothing(tiny_llama_dir: Path, tmp_path: Path) -> None:
    """The system itself refuses to write on: a limit of a megabyte on the size of a file."""
    code = (
        "import resource, sys\n"
        "from whet.errors import OutputError\n"
        "from whet.export.gguf import write_gguf\n"
        "from whet.export.tensors import CheckpointSource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "folder, target = sys.argv[1:]\n"
        "try:\n"
        "    write_gguf(CheckpointSource(folder), folder, target, 'f32', name='m')\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    target = tmp_path / "out" / "m.gguf"
    command = [sys.executable, "-c", code, str(tiny_llama_dir), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "cannot write" in done.stdout, done.stderr
    assert list(target.parent.iterdir()) == []


def test_a_place_that_is_no_folder(tiny_llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="in the way"):
        write_gguf(CheckpointSource(tiny_llama_dir), tiny_llama_dir, tmp_path / "file" / "m.gguf", "f16", name="m")
