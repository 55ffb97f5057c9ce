"""Axolotl's own keys: accepted, accepted with one notice, or refused with the reason; never ignored in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet import console
from whet.config import load_config, parse_config
from whet.errors import ConfigError

MINIMAL = "base_model: starter\ndatasets:\n  - path: rows.jsonl\n"

# The most used keys of Axolotl's own example configs, with a usual value: what becomes of each.
OBEYED = """
    output_dir: ./out|sequence_len: 512|micro_batch_size: 1|learning_rate: 0.0002|optimizer: adamw_torch_fused
    bf16: auto|gradient_accumulation_steps: 2|lr_scheduler: cosine|logging_steps: 1|num_epochs: 3|sample_packing: true
    warmup_ratio: 0.1|saves_per_epoch: 1|val_set_size: 0.05|gradient_checkpointing: true|weight_decay: 0.0
    wandb_project: x|adapter: lora|lora_r: 32|lora_alpha: 16|lora_dropout: 0.05|special_tokens: {pad_token: x}
    lora_target_modules: [q_proj]|lora_target_linear: true|chat_template: chatml|fp16: false|max_steps: 10
    warmup_steps: 10|save_steps: 5|seed: 42|lora_modules_to_save: [embed_tokens]|adam_beta2: 0.99|max_grad_norm: 1.0
    train_on_inputs: true|dataset_prepared_path: last_run|save_total_limit: 2|eval_batch_size: 1|load_in_4bit: false
    evals_per_epoch: 0
"""
NOTICED = """
    tf32: true|attn_implementation: flash_attention_2|dataset_processes: 4|model_type: LlamaForCausalLM
    tokenizer_type: AutoTokenizer|gradient_checkpointing_kwargs: {use_reentrant: false}|eval_sample_packing: true
    strict: true|pad_to_sequence_len: true|remove_unused_columns: true|eot_tokens: ["x"]|lora_mlp_kernel: true
    lora_qkv_kernel: true|lora_o_kernel: true|flash_attention: true|group_by_length: true|torch_compile: true
    liger_rope: true|liger_glu_activation: true|activation_offloading: true
    plugins: [axolotl.integrations.liger.LigerPlugin]
"""
REFUSED = """
    resume_from_checkpoint: x|load_in_8bit: true|lora_model_dir: x|fsdp: [full_shard]|fsdp_config: {a: b}
    fsdp_version: 2|trust_remote_code: true|skip_prepare_dataset: true|dpo_use_weighting: true|deepspeed: zero1.json
    dp_shard_size: 2|context_parallel_size: 2|early_stopping_patience: 3|plugins: [axolotl.integrations.kd.KDPlugin]
    peft_use_dora: true|neftune_noise_alpha: 5|comet_mode: get|tokens: [a]
"""
FREE = """
    resume_from_checkpoint:|load_in_8bit: false|fsdp:|fsdp_config: {}|deepspeed: null|rl:|trust_remote_code: false
    dp_shard_size: 1|plugins: []|skip_prepare_dataset: false
    tf32: false
"""


def lines(block: str) -> list[str]:
    return [line.strip() for line in block.replace("\n", "|").split("|") if line.strip()]


@pytest.mark.parametrize("line", lines(OBEYED))
def test_obeyed(line: str) -> None:
    key = line.partition(":")[0]
    assert key in parse_config(MINIMAL + line).model_fields_set


@pytest.mark.parametrize("line", lines(NOTICED))
def test_accepted_with_one_notice(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.forget_notices()
    for _ in range(2):
        for remark in parse_config(MINIMAL + line, name="c.yml").remarks:
            console.say(*remark)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"note: c.yml:4: {line.partition(':')[0]} has no effect here: ")


@pytest.mark.parametrize("line", lines(REFUSED))
def test_refused_with_place_and_reason(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL + line, name="c.yml")
    assert str(caught.value).startswith("c.yml:4: ") and "not supported" in str(caught.value)
    assert "to do: " in str(caught.value)


@pytest.mark.parametrize("line", lines(FREE))
def test_null_false_and_empty_are_fine(line: str) -> None:
    assert [remark for remark in parse_config(MINIMAL + line).remarks if remark.level == "note"] == []


@pytest.mark.parametrize("line", ["shards: 2", "split_thinking: true", "train_on_eos: all", "field_human: a"])
def test_dataset_keys_that_are_not_supported(line: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yml:4: .* is not supported"):
        parse_config(MINIMAL + "    " + line, name="c.yml")


def test_dataset_keys_that_ask_for_what_happens_anyway() -> None:
    extra = (
        "    template_thinking_key: reasoning_content\n    train_on_eos: turn\n    chat_template: tokenizer_default\n"
    )
    assert parse_config(MINIMAL + extra).datasets[0].path == "rows.jsonl"


def test_the_articles_config_loads_whole(shared: Path) -> None:
    config = load_config(shared / "acceptance" / "tutorial_dpo.yml")
    assert config.rl == "dpo" and config.rl_beta is None and config.datasets[0].field_chosen == "chosen"
