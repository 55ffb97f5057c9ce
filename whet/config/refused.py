"""Axolotl's keys that whet refuses, each with the reason and what to do instead.

They would change the result, or ask for work that whet does not do; so they are never passed over. Null, false and
empty values are fine, except where ``known.py`` says otherwise. A ``*`` stands for any ending.
"""

from __future__ import annotations

from typing import NamedTuple

REMOVE = "remove the line, or leave its value empty"


class Refusal(NamedTuple):
    """Why a key is refused, and what to do. ``later``: a coming version may take it."""

    reason: str
    fix: str = REMOVE
    later: bool = True


def _table(*groups: tuple[str, Refusal]) -> dict[str, Refusal]:
    return {key: refusal for keys, refusal in groups for key in keys.split()}


_GPUS = Refusal("whet trains on one device; several GPUs come later")
_PREFERENCE = Refusal(
    "preference training is dpo, ipo, kto, orpo or simpo, with the keys that docs/preference.md lists"
)
_ONLINE = Refusal("whet trains on rows that are given; it samples no answers while it trains", later=False)
_RESUME = Refusal("a run is resumed from the command line", "use: whet train CONFIG.yml --out DIR --resume", False)
_ADAPTER = Refusal(
    "a run starts a new adapter on base_model",
    "to go on from an adapter: whet export RUN --to merged, then base_model: that folder",
)
_ADAPTER_KIND = Refusal("adapters are LoRA, or rank-stabilised LoRA", "set adapter: lora, and peft_use_rslora")
_TARGETS = Refusal("layers are chosen by name", "set lora_target_modules, or lora_modules_to_save for whole layers")
_RATES = Refusal("one learning rate for all weights, with the schedules of transformers", "set lr_scheduler")
_OPTIMIZER = Refusal("it belongs to an optimizer that whet has not", "see whet config explain optimizer")
_SCHEDULE = Refusal("it changes the course of the learning rate", "set lr_scheduler and lr_scheduler_kwargs")
_BEST = Refusal("checkpoints are kept by age, and training ends as planned", "set save_total_limit and eval_steps")
_HUB = Refusal("training sends nothing anywhere", "after the run: whet push RUN REPO", False)
_TRACKER = Refusal("trackers are wandb, mlflow, trackio and tensorboard", "set the keys of one of them")
_QUANT = Refusal("frozen weights are 16 bits or NF4", "set load_in_4bit: true, or adapter: qlora")
_FP8 = Refusal("training runs in bfloat16, float16 or float32", "set bf16 or fp16")
_ATTENTION = Refusal("it changes what attention computes; whet computes what the model's own code does")
_LOSS = Refusal("it changes the loss; whet trains on plain cross-entropy")
_STREAM = Refusal("rows of any size are read in bounded memory from datasets", "use datasets, with its key streaming")
_SHARDS = Refusal("a run sees the whole of each source", "give a part with split, such as train[:10%]")
_ROWS = Refusal("rows are taken as they are", "leave out rows before training; whet preview counts doubles")
_TOKENS = Refusal("the tokenizer is the one in base_model", "set special_tokens")
_CODE = Refusal("whet runs no code that comes with a model", "remove it; the families of transformers need none", False)
_SAMPLES = Refusal("answers are compared after the run", "after the run: whet chat, or whet export")
_MODEL = Refusal("the model is built as its own folder says", "change config.json in a local copy of base_model")
_VISION = Refusal("whet trains on text")
_EXPERTS = Refusal("it concerns mixtures of experts, which whet does not train")
_OFFLOAD = Refusal("memory is saved by computing activations again", "set gradient_checkpointing: auto, and max_memory")
_PLUGIN = Refusal("it belongs to a plugin of Axolotl")
_TOOL = Refusal("it steers Axolotl itself, not the training")

NOT_YET: dict[str, Refusal] = _table(
    ("rl_* dpo_* orpo_* rpo_* simpo_* cpo_* kto_* max_prompt_len", _PREFERENCE),
    ("num_labels", Refusal("a reward model gives one score", "leave it out, or set it to 1", False)),
    ("trl vllm ebft process_reward_model", _ONLINE),
    ("deepspeed deepcompile fsdp fsdp_config fsdp_version fsdp_* ddp dp_shard_size dp_replicate_size", _GPUS),
    ("tensor_parallel_size context_parallel_size sequence_parallel_degree expert_parallel_*", _GPUS),
    ("heads_k_stride ring_attn_func", _GPUS),
    ("use_ray ray_* resources_per_worker local_rank world_size accelerator_config qlora_sharded_model_loading", _GPUS),
    ("resume_from_checkpoint auto_resume_from_checkpoints", _RESUME),
    ("lora_model_dir merge_lora", _ADAPTER),
    ("peft peft_use_dora peft_* relora* loftq_* mora", _ADAPTER_KIND),
    ("lora_target_parameters lora_fan_in_fan_out lora_rank_pattern lora_alpha_pattern unfrozen_parameters", _TARGETS),
    ("lisa_* spectrum_*", _TARGETS),
    ("loraplus_* embedding_lr embedding_lr_scale lr_groups", _RATES),
    ("adam_beta3 adam_epsilon2 optim_args optim_target_modules dion_* qgalore_* grokfast_*", _OPTIMIZER),
    ("cosine_* jagged_restart_* lr_div_factor lr_quadratic_warmup", _SCHEDULE),
    ("early_stopping_patience load_best_model_at_end metric_for_best_model greater_is_better loss_watchdog_*", _BEST),
    ("dynamic_checkpoint save_first_step", Refusal("checkpoints come by step or epoch", "set save_steps")),
    ("save_only_model", Refusal("a checkpoint holds all that a resumed run needs", "set save_total_limit: 1")),
    ("hub_* push_dataset_to_hub hf_use_auth_token", _HUB),
    ("comet_* use_comet swanlab_* use_swanlab use_otel_metrics otel_*", _TRACKER),
    ("gptq gptq_* load_in_8bit bnb_config_kwargs model_quantization_config* quantization qat", _QUANT),
    ("use_onebitllms llmcompressor", _QUANT),
    ("fp8 fp8_* fp32_norms fp32_norm_classes embeddings_skip_upcast", _FP8),
    ("s2_attention pose_* use_pose scaling_softmax* large_head_attention gemma4_hybrid_attn_impl", _ATTENTION),
    ("neftune_noise_alpha noisy_embedding_alpha use_eaft eaft_* kd_* dense_mixer diffusion", _LOSS),
    ("streaming*", Refusal(_STREAM.reason, "use datasets with type: completion", False)),
    ("pretrain_* pretraining_* preprocess_iterable", _STREAM),
    ("dataset_shard_idx dataset_shard_num dataset_shard_* num_dataset_shards_to_save", _SHARDS),
    ("dataset_exact_deduplication min_sample_len curriculum_sampling excess_token_handling", _ROWS),
    (
        "shuffle_before_merging_datasets shuffle_merged_datasets",
        Refusal("rows of all sources are shuffled together by seed", "set seed"),
    ),
    ("skip_prepare_dataset", Refusal("rows become tokens in one way for every run")),
    ("dataloader_drop_last", Refusal("every row is seen once in an epoch, the last ones too")),
    (
        "default_system_message",
        Refusal("system texts come from the rows or from the type", "set type.system_prompt"),
    ),
    ("chat_template_kwargs", Refusal("a chat template has no arguments here", "set chat_template_jinja")),
    ("tokens added_tokens_overrides tokenizer_config tokenizer_use_mistral_common fix_untrained_tokens", _TOKENS),
    ("resize_token_embeddings_to_32x shrink_embeddings", Refusal("embeddings have a row for each token of base_model")),
    ("mean_resizing_embeddings", Refusal("rows of added tokens are drawn anew, not from the mean of the others")),
    ("trust_remote_code", _CODE),
    ("base_model_config cls_model_config overrides_of_model_* reinit_weights rope_scaling", _MODEL),
    ("device device_map", Refusal("the device is found: a GPU where there is one, else the CPU", later=False)),
    ("gpu_memory_limit", Refusal("memory has one key", "use max_memory, such as 16GiB", False)),
    (
        "batch_size",
        Refusal("a step has micro_batch_size x gradient_accumulation_steps rows", "set these", False),
    ),
    ("auto_find_batch_size", Refusal("whet plan shows what fits, before a run", "set micro_batch_size")),
    ("max_packed_sequence_len", Refusal("packed rows have sequence_len tokens", "use sequence_len", False)),
    ("eval_sequence_len", Refusal("validation rows are as long as training rows", "set sequence_len")),
    ("eval_causal_lm_metrics do_causal_lm_eval do_bench_eval bench_* lm_eval_*", _SAMPLES),
    ("eval_max_new_tokens eval_table_size generate_samples num_generation_samples generation_*", _SAMPLES),
    ("gradio_*", Refusal("Gradio is not part of whet", "to talk to the model: whet chat RUN", False)),
    ("image_* processor_* freeze_mm_modules role_boundaries", _VISION),
    ("quantize_moe_experts experts_implementation llama4_linearized_experts moe_*", _EXPERTS),
    ("expert_backend use_scattermoe use_sonicmoe", _EXPERTS),
    ("layer_offloading", Refusal("frozen weights in main memory have a key of their own", "set stream_weights: true")),
    ("ple_cpu_offload selective_checkpointing tiled_mlp*", _OFFLOAD),
    ("profiler_*", Refusal("whet writes no profile")),
    ("use_kernels use_*_kernels dsv4_* gemma4_* nvfp4_* nonexpert_quantization hatchery nemo_gym_*", _PLUGIN),
    ("trainer_cls torchdistx_path merge_method experimental_skip_move_to_device", _TOOL),
    ("is_preprocess total_num_tokens total_supervised_tokens axolotl_config_path", _TOOL),
)

_OWN_TEMPLATE = Refusal("one chat template for the whole run", "set it at the top of the file", False)
_ENDS = Refusal("the end of each trained turn is trained (turn)")
_OLD_FORMAT = Refusal("it belongs to an older format of rows", "see the types in whet config explain datasets.type")
_DISTILL = Refusal("whet trains on text, not on another model's probabilities")
_STEPS = Refusal("rows that are judged step by step are not trained")

DATASET_NOT_YET: dict[str, Refusal] = _table(
    ("trust_remote_code", Refusal("whet runs no code that comes with data", "give the rows as files", False)),
    ("chat_template chat_template_jinja", _OWN_TEMPLATE),
    ("train_on_eos train_on_eot", _ENDS),
    ("conversation field_human field_model input_format input_transform", _OLD_FORMAT),
    ("logprobs_field temperature", _DISTILL),
    ("message_field_training_detail", Refusal("a message is trained as a whole or not", "use message_field_training")),
    ("preprocess_shards shards shards_idx", _SHARDS),
    ("split_thinking template_thinking_key", Refusal("thinking is a field of the message", "use field_thinking")),
    ("text_column", Refusal("the column with the text has one key", "use field", False)),
    ("skip", Refusal("which rows are read has one key", "use split, such as train[1000:]", False)),
    ("step_separator max_completion_length train_on_last_step_only", _STEPS),
    ("length sequence_length min_input_id max_input_id seed", Refusal("rows are never made up", later=False)),
)

_PAIR_FORMAT = Refusal("a type of your own describes one answer", "name a type for pairs: preference, kto")
TYPE_NOT_YET: dict[str, Refusal] = _table(
    ("field_prompt field_chosen field_rejected field_completion field_label", _PAIR_FORMAT),
    ("prompt_format chosen_format rejected_format completion_format", _PAIR_FORMAT),
)
TOKENS_NOT_YET: dict[str, Refusal] = _table(
    ("additional_special_tokens", Refusal("bos, eos, pad and unk can be named", "leave the others to the tokenizer")),
)
