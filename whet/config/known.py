"""What whet does with Axolotl's keys that it has no field for.

Three tables: ``MAPPED`` keys are read as other keys, ``NO_EFFECT`` keys need nothing here, and those of ``refused.py``
are errors. Null, false and empty values of all of them are passed over in silence where they ask for nothing
(``_ONLY_THESE`` names the others). Any other value is noticed once or refused: a key that would change the result is
never ignored. A ``*`` stands for any ending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeVar

from whet.config.refused import DATASET_NOT_YET, NOT_YET, TOKENS_NOT_YET, TYPE_NOT_YET, Refusal

__all__ = ["DATASET_NOT_YET", "MAPPED", "NOT_YET", "NO_EFFECT", "TOKENS_NOT_YET", "TYPE_NOT_YET", "Refusal"]
T = TypeVar("T")
GIVEN = object()  # in MAPPED: the value that was given


class Mapped(NamedTuple):
    """A key that is read as others: what they are set to, and the words of the notice."""

    sets: dict[str, Any]
    text: str


MAPPED: dict[str, Mapped] = {
    "bfloat16": Mapped({"bf16": True}, "read as bf16: true"),
    "float16": Mapped({"fp16": True}, "read as fp16: true"),
    "float32": Mapped({"bf16": False, "fp16": False}, "read as bf16: false and fp16: false"),
    "pretraining_dataset": Mapped({"datasets": GIVEN}, "read as datasets with type: pretrain"),
    "evaluation_strategy": Mapped({"eval_strategy": GIVEN}, "read as eval_strategy, its name today"),
}
# Values of whet's own keys that are read as another value.
MAPPED_VALUES: dict[str, dict[Any, str]] = {
    "gradient_checkpointing": dict.fromkeys(
        ("offload", "offload_disk"), "read as true: activations are computed again instead of moved away"
    ),
}

_ATTENTION = "the fastest attention of this machine is used"
_BUILT_IN = "what it asks for is built in, or not needed"
_FROM_FOLDER = "the model's own folder says it"
_COMPILE = "whet does not compile the model"
_CORES = "rows are prepared by all cores, and read from memory or a mapped file"
_ROWS = "rows are packed or grouped by length; the result is the same"

NO_EFFECT: dict[str, str] = {
    "strict": "unknown keys are always errors",
    "model_type": _FROM_FOLDER,
    "tokenizer_type": _FROM_FOLDER,
    "tokenizer_use_fast": _FROM_FOLDER,
    "tokenizer_legacy": _FROM_FOLDER,
    "type_of_model": _FROM_FOLDER,
    "is_*_derived_model": _FROM_FOLDER,
    "tokenizer_save_jinja_files": _BUILT_IN,
    "save_safetensors": "weights are always written as safetensors",
    "eot_tokens": "the chat template says how a turn ends",
    "flash_attention": _ATTENTION,
    "attn_implementation": _ATTENTION,
    "sdp_attention": _ATTENTION,
    "xformers_attention": _ATTENTION,
    "flex_attention": _ATTENTION,
    "sage_attention": _ATTENTION,
    "eager_attention": _ATTENTION,
    "flash_attn_cross_entropy": _BUILT_IN,
    "flash_attn_rms_norm": _BUILT_IN,
    "flash_attn_fuse_qkv": _BUILT_IN,
    "flash_attn_fuse_mlp": _BUILT_IN,
    "flash_optimum": _ATTENTION,
    "flash_attn_d512": _ATTENTION,
    "sdpa_varlen": _ATTENTION,
    "fused_attn_kernel": _ATTENTION,
    "flex_attn_compile_kwargs": _ATTENTION,
    "tf32": "the fastest exact setting is chosen",
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "torch_compile_options": _COMPILE,
    "liger_rope": _BUILT_IN,
    "liger_rms_norm": _BUILT_IN,
    "liger_glu_activation": _BUILT_IN,
    "liger_fused_linear_cross_entropy": _BUILT_IN,
    "liger_*": _BUILT_IN,
    "cut_cross_entropy": _BUILT_IN,
    "chunked_cross_entropy": _BUILT_IN,
    "chunked_cross_entropy_num_chunks": _BUILT_IN,
    "lora_mlp_kernel": _BUILT_IN,
    "lora_qkv_kernel": _BUILT_IN,
    "lora_o_kernel": _BUILT_IN,
    "lora_embedding_kernel": _BUILT_IN,
    "unsloth_*": _BUILT_IN,
    "low_cpu_mem_usage": _BUILT_IN,
    "lora_on_cpu": _BUILT_IN,
    "gradient_checkpointing_kwargs": _BUILT_IN,
    "activation_offloading": "gradient_checkpointing and max_memory say what is kept; the result is the same",
    "remove_unused_columns": _BUILT_IN,
    "include_tokens_per_second": "tokens per second are always logged",
    "include_tkps": "tokens per second are always logged",
    "pad_to_sequence_len": _ROWS,
    "pad_to_multiple_of": _ROWS,
    "group_by_length": _ROWS,
    "eval_sample_packing": _ROWS,
    "sample_packing_group_size": _ROWS,
    "sample_packing_bin_size": _ROWS,
    "sample_packing_sequentially": _ROWS,
    "sample_packing_eff_est": _ROWS,
    "multipack_real_batches": _ROWS,
    "batch_flattening": _ROWS,
    "sample_packing_mp_start_method": _CORES,
    "dataset_processes": _CORES,
    "dataset_num_proc": _CORES,
    "dataset_keep_in_memory": _CORES,
    "dataloader_num_workers": _CORES,
    "dataloader_pin_memory": _CORES,
    "dataloader_prefetch_factor": _CORES,
    "ddp_*": "it concerns several GPUs",
    "gc_steps": _BUILT_IN,
    "gc_collect_steps": _BUILT_IN,
    "torch_empty_cache_steps": _BUILT_IN,
}

# Keys where false or an empty value asks for something too: only these values (and null) pass in silence.
_ONLY_THESE: dict[str, list[Any]] = {
    "chat_template": ["tokenizer_default"],
    "num_labels": [1],
    "save_safetensors": [True],
    "shuffle_merged_datasets": [True],
    "template_thinking_key": ["reasoning_content"],
    "tokenizer_legacy": [],
    "tokenizer_use_fast": [True],
    "train_on_eos": ["turn"],
    "train_on_eot": ["turn"],
}
PLUGINS = ("liger", "cut_cross_entropy", "CutCrossEntropy")


def find(table: Mapping[str, T], key: str) -> T | None:
    """What ``table`` says about ``key``: its own entry first, then the patterns in order."""
    return table.get(key) or next((entry for pattern, entry in table.items() if fnmatchcase(key, pattern)), None)


def harmless(key: str) -> list[Any]:
    """The values of ``key`` that ask for nothing, or for what whet does anyway."""
    if key in _ONLY_THESE:
        return [None, *_ONLY_THESE[key]]
    return [None, False, "", [], {}, *([1] if key.endswith(("_size", "_degree")) else [])]


def is_harmless(key: str, value: Any) -> bool:
    """Whether ``value`` is among ``harmless(key)``; 1 is not true, and 0 is not false."""
    return any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in harmless(key))


def foreign_plugins(value: Any) -> list[str]:
    """The entries of ``plugins:`` that whet cannot stand in for."""
    entries = value if isinstance(value, list) else [value]
    return [str(entry) for entry in entries if not any(name in str(entry) for name in PLUGINS)]


def names() -> Iterator[str]:
    """The keys above that are no patterns: candidates for "did you mean"."""
    return (name for name in ("plugins", *MAPPED, *NO_EFFECT, *NOT_YET) if "*" not in name)
