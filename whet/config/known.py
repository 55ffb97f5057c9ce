"""Axolotl's keys that whet has no field for: some need nothing here, some are not supported yet.

Null, false and empty values of these are always fine. Any other value is either noticed once (``NO_EFFECT``) or an
error (``NOT_YET``): a key that would change the result is never ignored in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

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
    "tf32": "the fastest exact setting is chosen",
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "liger_*": _BUILT_IN,
    "cut_cross_entropy": _BUILT_IN,
    "lora_mlp_kernel": _BUILT_IN,
    "lora_qkv_kernel": _BUILT_IN,
    "lora_o_kernel": _BUILT_IN,
    "lora_embedding_kernel": _BUILT_IN,
    "unsloth_*": _BUILT_IN,
    "low_cpu_mem_usage": _BUILT_IN,
    "lora_on_cpu": _BUILT_IN,
    "gradient_checkpointing_kwargs": _BUILT_IN,
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
    "dataset_processes": _CORES,
    "dataset_num_proc": _CORES,
    "dataset_keep_in_memory": _CORES,
    "dataloader_num_workers": _CORES,
    "dataloader_pin_memory": _CORES,
    "dataloader_prefetch_factor": _CORES,
    "ddp_*": "it concerns several GPUs",
    "gc_steps": _BUILT_IN,
}

_GPUS = "one device; several GPUs come later"
_PREFERENCE = "supervised fine-tuning; preference training comes later"
_LATER = "it may come in a later version"
_RESUME = "use: whet train CONFIG.yml --out DIR --resume"

NOT_YET: dict[str, str] = {
    "rl": _PREFERENCE,
    "rl_*": _PREFERENCE,
    "dpo_*": _PREFERENCE,
    "orpo_*": _PREFERENCE,
    "rpo_*": _PREFERENCE,
    "simpo_*": _PREFERENCE,
    "cpo_*": _PREFERENCE,
    "kto_*": _PREFERENCE,
    "trl": _PREFERENCE,
    "vllm": _PREFERENCE,
    "reward_model": _PREFERENCE,
    "process_reward_model": _PREFERENCE,
    "num_labels": _PREFERENCE,
    "deepspeed": _GPUS,
    "fsdp": _GPUS,
    "fsdp_*": _GPUS,
    "ddp": _GPUS,
    "dp_shard_size": _GPUS,
    "dp_replicate_size": _GPUS,
    "tensor_parallel_size": _GPUS,
    "context_parallel_size": _GPUS,
    "sequence_parallel_degree": _GPUS,
    "use_ray": _GPUS,
    "ray_*": _GPUS,
    "resources_per_worker": _GPUS,
    "resume_from_checkpoint": _RESUME,
    "auto_resume_from_checkpoints": _RESUME,
    "batch_size": "set micro_batch_size and gradient_accumulation_steps",
    "trust_remote_code": "whet runs no code that comes with a model",
    "load_in_8bit": "use load_in_4bit, or 16 bits",
    "bfloat16": "use bf16",
    "float16": "use fp16",
    "float32": "set bf16: false and fp16: false",
    "pretraining_dataset": "use datasets with type: completion",
}
_NOT_YET_PLAIN = """
    accelerator_config activation_offloading adam_beta3 adam_epsilon2 added_tokens_overrides
    auto_find_batch_size base_model_config bench_dataset bnb_config_kwargs chat_template_kwargs
    cls_model_config comet_* cosine_* curriculum_sampling dataloader_drop_last dataset_exact_deduplication
    dataset_shard_* default_system_message device device_map do_bench_eval do_causal_lm_eval
    early_stopping_patience embedding_lr embedding_lr_scale embeddings_skip_upcast eval_causal_lm_metrics
    eval_max_new_tokens eval_table_size excess_token_handling fix_untrained_tokens fp8 fp8_* gpu_memory_limit
    gptq gptq_* gradio_* greater_is_better hf_use_auth_token hub_* image_* jagged_restart_* lisa_*
    load_best_model_at_end local_rank loraplus_* lora_fan_in_fan_out lora_model_dir lora_target_parameters
    loss_watchdog_* lr_div_factor lr_groups lr_quadratic_warmup max_prompt_len
    mean_resizing_embeddings merge_lora metric_for_best_model min_sample_len model_quantization_config*
    neftune_noise_alpha optim_args optim_target_modules peft peft_* pose_* pretrain_* pretraining_*
    processor_type profiler_* push_dataset_to_hub qat qlora_sharded_model_loading quantization relora*
    resize_token_embeddings_to_32x s2_attention save_first_step save_only_model shrink_embeddings
    shuffle_before_merging_datasets skip_prepare_dataset streaming* tokenizer_config
    tokenizer_use_mistral_common tokens unfrozen_parameters use_comet use_kernels use_pose world_size"""
NOT_YET |= dict.fromkeys(_NOT_YET_PLAIN.split(), _LATER)

DATASET_NOT_YET: dict[str, str] = {
    "trust_remote_code": "whet runs no code that comes with data",
    "chat_template": "set chat_template for the whole run",
    "chat_template_jinja": "set chat_template_jinja for the whole run",
    "train_on_eos": "the end of each trained turn is trained (turn)",
    "train_on_eot": "the end of each trained turn is trained (turn)",
}
_DATASET_PLAIN = """
    conversation field_human field_model input_format input_transform logprobs_field message_field_training_detail
    preprocess_shards shards shards_idx split_thinking temperature template_thinking_key"""
DATASET_NOT_YET |= dict.fromkeys(_DATASET_PLAIN.split(), _LATER)

# Values of the keys above that ask for what whet does anyway.
_HARMLESS: dict[str, list[Any]] = {
    "chat_template": ["tokenizer_default"],
    "mean_resizing_embeddings": [True],
    "template_thinking_key": ["reasoning_content"],
    "train_on_eos": ["turn"],
    "train_on_eot": ["turn"],
}
_PLUGINS = ("liger", "cut_cross_entropy", "CutCrossEntropy")


def reason(table: Mapping[str, str], key: str) -> str | None:
    """What ``table`` says about ``key``: its own entry first, then the patterns in order."""
    return table.get(key) or next((text for pattern, text in table.items() if fnmatchcase(key, pattern)), None)


def is_harmless(key: str, value: Any) -> bool:
    """Null, false, empty, or a value that asks for what whet does anyway."""
    if value is None or value is False or value in ("", [], {}):
        return True
    return value in _HARMLESS.get(key, []) or (key.endswith(("_size", "_degree")) and value == 1)


def foreign_plugins(value: Any) -> list[str]:
    """The entries of ``plugins:`` that whet cannot stand in for."""
    entries = value if isinstance(value, list) else [value]
    return [str(entry) for entry in entries if not any(name in str(entry) for name in _PLUGINS)]


def names() -> Iterator[str]:
    """The keys above that are no patterns: candidates for "did you mean"."""
    return (name for name in (*NO_EFFECT, *NOT_YET) if "*" not in name)
