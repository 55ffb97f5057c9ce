"""A tiny random model of every family the engine reads, with LoRA through PEFT.

Sizes are odd where a family allows it (three layers, heads * head_dim unlike hidden, a vocabulary of 97). ``nf4=True``
stores the linear layers of the decoder as bitsandbytes does, without bitsandbytes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from whet.engine.kernels.nf4 import dequantise_nf4
from whet.engine.quantised import quantise_nf4, read_nf4

VOCAB, WINDOW = 97, 5
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA: dict[str, Any] = {
    "head_dim": 8,
    "num_hidden_layers": 3,
    "layer_types": ALTERNATING,
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 12,
    "tie_word_embeddings": True,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE}),
    "llama_biases": (LlamaConfig, {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW, "head_dim": 8}),
    "qwen2": (Qwen2Config, {}),
    "qwen2_window": (Qwen2Config, {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "gemma2": (Gemma2Config, {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": (Gemma3TextConfig, GEMMA),
    "phi3": (Phi3Config, {"sliding_window": WINDOW}),
    "phi3_partial": (
        Phi3Config,
        {
            "hidden_size": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "smollm": (LlamaConfig, {"tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1}),
}
FAMILIES = tuple(CONFIGS)
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class FourBit(torch.nn.Linear):
    """A linear layer as bitsandbytes' Linear4bit: packed bytes in ``weight``, computed in ``dtype``."""

    def __init__(self, dense: torch.nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=False, device="meta")
        nf4 = quantise_nf4(dense.weight.to(dtype) if dtype != torch.float64 else dense.weight.float())
        self.weight = torch.nn.Parameter(nf4.packed[:, None].clone(), requires_grad=False)
        self.weight.quant_state = SimpleNamespace(
            quant_type="nf4", absmax=nf4.absmax, shape=nf4.shape, dtype=nf4.dtype, blocksize=nf4.block, state2=None
        )
        self.bias, self.compute_dtype = dense.bias, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.to(self.compute_dtype), dense_weight(self, self.compute_dtype), self.bias).to(x.dtype)


def dense_weight(base: Any, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The weight (N, K) of a linear layer, dequantised where it is packed."""
    nf4 = read_nf4(base)
    if isinstance(nf4, str):
        return base.weight.to(dtype)
    out_NK = torch.empty(nf4.shape, dtype=dtype)
    dequantise_nf4(nf4, out_NK)
    return out_NK


def plain_model(
    family: str, dtype: torch.dtype = torch.float64, seed: int = 0, *, nf4: bool = False, **changes: Any
) -> Any:
    """A model in eval mode, frozen; every number is random, norms and biases too, so that no one or zero hides a fault.

    Attention is torch's own (float64 throughout), but eager for Gemma 2: only that caps scores (softmax in float32).
    """
    make, extra = CONFIGS[family]
    torch.manual_seed(seed)
    config = make(**{**SIZES, **extra, **changes})
    attention = "eager" if family == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.copy_(0.3 * torch.randn_like(weight) + (0.0 if "gemma" in family or "bias" in name else 1.0))
            else:
                weight.copy_(torch.randn_like(weight) * (0.3 if "embed" in name else 0.15))
    model.to(dtype).eval().requires_grad_(False)
    for layer in model.model.layers if nf4 else []:
        for name, module in list(layer.named_modules()):
            if isinstance(module, torch.nn.Linear):
                layer.set_submodule(name, FourBit(module, dtype))
    return model


def targets_of(family: str) -> tuple[str, ...]:
    """The linear layers that take an adapter, all of them."""
    return FUSED if family.startswith("phi3") else SEPARATE


def lora_model(
    family: str, dtype: torch.dtype = torch.float64, seed: int = 0, *, nf4: bool = False, **lora: Any
) -> Any:
    """``plain_model`` under PEFT: every linear layer has an adapter whose A and B are random, rank 3, scale 2."""
    settings = {"r": 3, "lora_alpha": 6, "target_modules": list(targets_of(family)), "lora_dropout": 0.0, **lora}
    model = get_peft_model(plain_model(family, dtype, seed, nf4=nf4), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data = (0.2 * torch.randn(weight.shape)).to(dtype)
    return model.eval()


def packed(lengths: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_1T and position_ids_1T of documents that stand one after the other in one row."""
    generator = torch.Generator().manual_seed(seed)
    ids_1T = torch.randint(3, VOCAB, (1, sum(lengths)), generator=generator)
    return ids_1T, torch.cat([torch.arange(length) for length in lengths])[None]
