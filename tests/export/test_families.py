"""Every family with its kind of tokenizer: float32 files against transformers, and the proof of each quantisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tokenizers as small
import torch
from conftest import THREADS

from whet.export.families import context_limit
from whet.export.gguf import write_gguf
from whet.export.lora import AdapterSource
from whet.export.tensors import CheckpointSource
from whet.export.verify import verify_gguf
from whet.llamacpp import LlamaServer

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
LLAMA_3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LONG_ROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 512,
    "short_factor": [1 + 0.05 * i for i in range(32)], "long_factor": [1 + 0.4 * i for i in range(32)],
}  # fmt: skip
PHI_4_ROPE = LONG_ROPE | {
    "partial_rotary_factor": 0.75, "short_factor": [1.0] * 24, "long_factor": LONG_ROPE["long_factor"][:24],
}  # fmt: skip
GEMMA_3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
TIED = {"tie_word_embeddings": True}


@dataclass(frozen=True)
class Case:
    """A family: transformers' name for its config, what is particular, how it tokenizes, how long its document is."""

    kind: str
    tokenizer: Callable[[], Any]
    settings: dict[str, Any] = field(default_factory=dict)
    length: int = 200
    tolerance: float = 2e-3


gemma = partial(Case, tokenizer=small.gemma, tolerance=5e-3)  # ggml's GELU is a table in float16
CASES = {
    "llama-2": Case("Llama", small.llama_2),
    "llama-3": Case("Llama", small.llama_3),
    "llama-3.2": Case("Llama", small.llama_3, {"rope_parameters": LLAMA_3_ROPE, "head_dim": 32} | TIED, length=700),
    "tinyllama": Case("Llama", small.tinyllama),
    "smollm2": Case("Llama", small.smollm, TIED),
    "mistral": Case("Mistral", small.mistral, {"sliding_window": 256, "head_dim": 32}, length=250),
    "qwen2.5": Case("Qwen2", small.qwen, TIED),
    "qwen3": Case("Qwen3", small.qwen, {"head_dim": 32}),
    "gemma": gemma("Gemma", settings={"head_dim": 32}),
    "gemma-2": gemma("Gemma2", settings={"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 24}),
    "gemma-2, its own scale": gemma(
        "Gemma2", settings={"head_dim": 32, "query_pre_attn_scalar": 100, "sliding_window": 24}
    ),
    "gemma-3": gemma(
        "Gemma3Text",
        settings={"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 64, "sliding_window": 24},
    ),
    "gemma-3, scaled": gemma(
        "Gemma3Text",
        settings={
            "num_hidden_layers": 3, "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 24,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"], "rope_parameters": GEMMA_3_ROPE,
        },
    ),
    "phi-3": Case("Phi3", small.phi_3, {"sliding_window": 2047}),
    "phi-3.5": Case("Phi3", small.phi_3, {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 512}),
    "phi-3.5, long": Case(
        "Phi3", small.phi_3, {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 512}, length=700
    ),
    "phi-4-mini": Case(
        "Phi3", small.phi_4, {"rope_parameters": PHI_4_ROPE, "original_max_position_embeddings": 512} | TIED
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A model on disk, and in memory."""

    case: Case
    folder: Path
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """make(name): the model of that case, once."""
    made: dict[str, Made] = {}

    def build(name: str) -> Made:
        if name not in made:
            made[name] = _build(CASES[name], tmp_path_factory.mktemp("family") / "model")
        return made[name]

    return build


def _build(case: Case, folder: Path) -> Made:
    import transformers

    torch.manual_seed(7)
    tokenizer = case.tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": None}
    config = getattr(transformers, f"{case.kind}Config")(
        vocab_size=len(tokenizer) + 5, **(SIZES | ends | case.settings)
    )
    model = getattr(transformers, f"{case.kind.removesuffix('Text')}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms of one and biases of zero would hide a mistake
                parameter.add_(0.2 * torch.randn_like(parameter))
                if case.kind.startswith("Gemma") and "post_" in name:
                    parameter.sub_(0.6)  # as trained: a layer adds less than is there
            else:  # quantisation errors grow from layer to layer in a random model: no large weights but in q and k
                turned = name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight"))
                parameter.normal_(std=0.05 if turned else 0.03)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Made(case, folder, model, transformers.AutoTokenizer.from_pretrained(folder))


def _write(made: Made, folder: Path, quant: str) -> Path:
    return write_gguf(CheckpointSource(made.folder), made.folder, folder / f"{quant}.gguf", quant, name="orders")


@pytest.mark.parametrize("name", CASES)
def test_float32_log_probabilities(
    name: str, make: Callable[[str], Made], needs_llamacpp: None, tmp_path: Path
) -> None:
    """At several lengths, beyond sliding windows and beyond the context that rotary embeddings were made for."""
    made = make(name)
    torch.manual_seed(1)
    ids = torch.randint(5, len(made.tokenizer) - 1, (1, made.case.length))
    with torch.inference_mode():
        want_TV = made.model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1).numpy()
    assert want_TV.std(-1).mean() > 0.1  # no flat distribution, which anything would match
    lengths = [600, 700] if name == "phi-3.5, long" else [1, 7, made.case.length // 2, made.case.length]
    room = 1024 if made.case.length > 512 else 512  # from 513 on, llama.cpp takes the long factors
    with LlamaServer(_write(made, tmp_path, "f32"), n_ctx=room, threads=THREADS, kv_f32=True) as server:
        for length in lengths:
            found_V = server.next_logprobs(ids[0, :length].tolist(), want_TV.shape[1])
            assert np.abs(found_V - want_TV[length - 1]).max() <= made.case.tolerance, length


@pytest.mark.parametrize("name", CASES)
def test_every_quantisation_is_proved(
    name: str, make: Callable[[str], Made], needs_llamacpp: None, tmp_path: Path
) -> None:
    made = make(name)
    for quant in ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"):
        file = _write(made, tmp_path, quant)
        verdict = verify_gguf(file, made.model, made.tokenizer, positions=10, threads=THREADS)
        assert verdict.quant == quant
        assert (verdict.tokens_identical, verdict.template_identical, verdict.eos_identical) == (True, True, True)
        assert verdict.passed, verdict


def test_context_limits(make: Callable[[str], Made]) -> None:
    limits = {
        name: context_limit(CheckpointSource(make(name).folder).config) for name in ("mistral", "gemma-2", "phi-3")
    }
    assert limits == {"mistral": 256, "gemma-2": 1024, "phi-3": 1024}


@pytest.mark.parametrize(
    ("name", "part", "change"),
    [
        ("gemma-2", "input_layernorm", lambda weight: weight - 1.0),  # the 1 forgotten
        ("gemma-3", "q_norm", lambda weight: weight * 0.5),
        ("qwen3", "k_norm", lambda weight: weight.flip(0)),
        ("phi-3", "qkv_proj", lambda weight: weight.roll(256, 0)),
        ("phi-3", "gate_up_proj", lambda weight: weight.roll(512, 0)),  # gate and up in each other's place
        ("mistral", "k_proj", lambda weight: weight.reshape(2, 16, 2, -1).transpose(1, 2).reshape(weight.shape)),
    ],
)
def test_a_mistake_fails(
    name: str,
    part: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    make: Callable[[str], Made],
    needs_llamacpp: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make(name)
    source = CheckpointSource(made.folder)
    right = source.get
    monkeypatch.setattr(source, "get", lambda weight: change(right(weight)) if part in weight else right(weight))
    file = write_gguf(source, made.folder, tmp_path / "m.gguf", "f32", name="orders")
    verdict = verify_gguf(file, made.model, made.tokenizer, positions=10, threads=THREADS)
    assert verdict.tokens_identical
    assert not verdict.passed


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("gemma-2, its own scale", ["q_proj", "v_proj", "down_proj"]),
        ("phi-3", ["qkv_proj", "gate_up_proj", "o_proj"]),
        ("qwen3", ["q_proj", "k_proj", "up_proj"]),
    ],
)
def test_an_adapter_is_merged(
    name: str,
    modules: list[str],
    make: Callable[[str], Made],
    make_adapter: Callable[..., Path],
    load_float32: Callable[..., Any],
    needs_llamacpp: None,
    tmp_path: Path,
) -> None:
    made = make(name)
    adapter = make_adapter(made.folder, target_modules=modules, lora_alpha=4)
    source = AdapterSource(CheckpointSource(made.folder), adapter)
    file = write_gguf(source, made.folder, tmp_path / "m.gguf", "f16", name="orders")
    tuned = load_float32(made.folder, adapter)
    assert verify_gguf(file, tuned, made.tokenizer, positions=10, threads=THREADS).passed
    assert not verify_gguf(file, made.model, made.tokenizer, positions=10, threads=THREADS).passed
