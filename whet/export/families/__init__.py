"""The model families that can be written as GGUF, and what llama.cpp wants to be different in each.

Tensor names and metadata keys follow the GGUF specification (ggml's docs/gguf.md) through the ``gguf`` package; what
each architecture reads is in llama.cpp's ``src/models``.
"""

from __future__ import annotations

from difflib import get_close_matches

import gguf
from transformers import CONFIG_MAPPING

from whet.errors import ExportError
from whet.export.families.family import Config, Family, head_dim, kv_heads
from whet.export.families.gemma import GEMMA, GEMMA2, GEMMA3
from whet.export.families.llama import LLAMA, MISTRAL
from whet.export.families.phi3 import PHI3
from whet.export.families.qwen import QWEN2, QWEN3
from whet.export.families.rope import add_rope, check_rope, rope_tensors
from whet.export.families.vision import language_config

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": MISTRAL,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "GemmaForCausalLM": GEMMA,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Phi3ForCausalLM": PHI3,
}


def read_config(config: Config) -> Config:
    """A config.json as transformers reads it: every default in place, rotary settings in one form.

    Raises:
        ExportError: an architecture, or a variant of one, that cannot be written.
    """
    config = language_config(config)
    family = _family(config)
    architecture = config["architectures"][0]
    try:
        full = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).to_dict()
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"the config.json of this {architecture} cannot be read: {error}") from error
    full["architectures"] = [architecture]
    activation = full.get("hidden_activation") or full.get("hidden_act")
    if activation != family.activation:
        raise ExportError(
            f"{architecture} with the activation {activation}", f"{family.activation}, the only one in llama.cpp here"
        )
    if not family.head and not full.get("tie_word_embeddings"):
        raise ExportError(f"{architecture} with an output matrix of its own", "one tied to the embedding")
    check_rope(full, family.rope_types)
    family.check(full)
    return full


def family_of(config: Config) -> Family:
    """The family of a config.json.

    Raises:
        ExportError: an architecture, or a variant of one, that cannot be written.
    """
    return _family(read_config(config))


def _family(config: Config) -> Family:
    name = (config.get("architectures") or ["(none named)"])[0]
    if name not in FAMILIES:
        near = get_close_matches(name, FAMILIES, n=1, cutoff=0.6)
        raise ExportError(
            f"cannot write the architecture {name} as GGUF yet",
            f"one of {', '.join(FAMILIES)}" + (f" (nearest: {near[0]})" if near else ""),
            "export it as merged safetensors instead",
        )
    return FAMILIES[name]


def context_limit(config: Config) -> int:
    """Tokens up to which llama.cpp computes what transformers does.

    llama.cpp has no sliding window for Llama, Mistral, Qwen and Phi-3, so the window is the limit where one of these
    uses it.
    """
    full = read_config(config)
    window = _family(full).window(full)
    limit = full["max_position_embeddings"]
    return min(limit, window) if window else limit


def add_metadata(writer: gguf.GGUFWriter, config: Config, context_length: int) -> None:
    """Write the sizes, the rotary settings and what else the family has.

    Args:
        config: from :func:`read_config`.
        context_length: tokens.
    """
    size = head_dim(config)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(context_length)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(kv_heads(config))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    add_rope(writer, config)
    _family(config).metadata(writer, config)


__all__ = ["FAMILIES", "Config", "Family", "add_metadata", "context_limit", "family_of", "read_config", "rope_tensors"]
