"""Every wrong config is refused with its place, what was given and the nearest right thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from whet.config import load_config, parse_config
from whet.errors import ConfigError

MINIMAL = "base_model: starter\ndatasets:\n  - path: rows.jsonl\n"


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, overrides, name="c.yml")
    return str(caught.value)


def test_the_defaults() -> None:
    config = parse_config(MINIMAL)
    assert (config.sequence_len, config.sample_packing, config.micro_batch_size) == (2048, True, 2)
    assert (config.gradient_accumulation_steps, config.lora_r, config.lora_alpha) == (4, 16, 16)
    assert (config.learning_rate, config.num_epochs, config.lr_scheduler) == (2e-4, 1, "cosine")
    assert (config.optimizer, config.save_total_limit, config.seed) == ("adamw_torch", 4, 3407)
    assert (config.long_rows, config.bf16, config.output_dir) == ("drop", "auto", "./whet-out")
    assert config.adapter is None and config.warmup_steps is None and config.report_to == []


def test_every_key_is_described() -> None:
    from whet.config import DatasetConfig, DatasetType, RunConfig, SpecialTokens

    for model in (RunConfig, DatasetConfig, DatasetType, SpecialTokens):
        assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("line", "place", "nearest"),
    [
        ("learing_rate: 1e-4", "c.yml:4", '"learning_rate"'),
        ("lr: 1e-4", "c.yml:4", '"learning_rate"'),
        ("max_seq_length: 512", "c.yml:4", '"sequence_len"'),
        ("Lora-R: 8", "c.yml:4", '"lora_r"'),
        ("gradient_checkpointng_kwargs: {}", "c.yml:4", '"gradient_checkpointing_kwargs"'),
        ("test_datasets:\n  - path: a\n    spilt: test", "c.yml:6", '"split"'),
        ("test_datasets:\n  - path: a\n    type:\n      field_instuction: q", "c.yml:7", '"field_instruction"'),
        ("special_tokens:\n  pad_tokn: x", "c.yml:5", '"pad_token"'),
        ("flsh_attention: true", "c.yml:4", '"flash_attention"'),
    ],
)
def test_a_typo_at_any_depth(line: str, place: str, nearest: str) -> None:
    message = refused(MINIMAL + line)
    assert message.startswith(f"{place}: unknown key")
    assert f"did you mean {nearest}?" in message


@pytest.mark.parametrize(
    ("line", "given", "expected"),
    [
        ("sequence_len: long", 'sequence_len is "long" (text)', "a whole number"),
        ("sequence_len: 10.5", "sequence_len is 10.5", "a whole number"),
        ("micro_batch_size: true", "micro_batch_size is true", "a whole number"),
        ("micro_batch_size: 0", "micro_batch_size is 0", "at least 1"),
        ("learning_rate: [1]", "learning_rate is a list of 1", "a number"),
        ("learning_rate: .nan", "learning_rate is nan", "a number"),
        ("lora_dropout: 1.5", "lora_dropout is 1.5", "less than 1"),
        ("sample_packing: 3", "sample_packing is 3", "true or false"),
        ("bf16: maybe", 'bf16 is "maybe"', "auto, true or false"),
        ("adapter: dora", 'adapter is "dora"', "'lora' or 'qlora'"),
        ("output_dir: 5", "output_dir is 5", "text"),
        ("lora_target_modules: {a: b}", "lora_target_modules is a mapping", "a name, or a list of names"),
        ("test_datasets: []", "test_datasets is an empty list", "at least one entry"),
        ("test_datasets: rows.jsonl", 'test_datasets is "rows.jsonl"', "a list"),
        ("test_datasets: [rows.jsonl]", 'test_datasets.0 is "rows.jsonl"', "a mapping"),
        ("optimizer: adamw", 'optimizer is "adamw"', 'did you mean "adamw_torch"?'),
        ("lr_scheduler: cosin", 'lr_scheduler is "cosin"', 'did you mean "cosine"?'),
        ("chat_template: quen_25", 'chat_template is "quen_25"', "qwen_25"),
        ("test_datasets: [{path: a, type: alpacca}]", 'test_datasets.0.type is "alpacca"', 'did you mean "alpaca"?'),
        ("test_datasets: [{path: a, type: sharegtp}]", 'test_datasets.0.type is "sharegtp"', 'mean "sharegpt"?'),
        (
            "test_datasets: [{path: a, type: input_output}]",
            'test_datasets.0.type is "input_output"',
            "not supported yet",
        ),
        ("test_datasets: [{path: a, damaged: ignore}]", 'test_datasets.0.damaged is "ignore"', "'error' or 'skip'"),
        ("test_datasets: [{path: a, delimiter: ';;'}]", 'test_datasets.0.delimiter is ";;"', "one character, or tab"),
        ("test_datasets: [{path: a, weight: 0}]", "test_datasets.0.weight is 0", "more than 0"),
        ("test_datasets: [{path: a, roles_to_train: user}]", 'test_datasets.0.roles_to_train is "user"', "a list"),
        (
            "test_datasets: [{path: a, roles: {asistant: [x]}}]",
            "test_datasets.0.roles is a mapping",
            'did you mean "assistant"?',
        ),
        (
            "test_datasets: [{path: a, message_property_mappings: {rolle: x}}]",
            "test_datasets.0.message_property_mappings is a mapping",
            'did you mean "role"?',
        ),
        ("test_datasets: [{path: a, type: 7}]", "test_datasets.0.type is 7", "text"),
    ],
)
def test_a_wrong_value(line: str, given: str, expected: str) -> None:
    message = refused(MINIMAL + line)
    assert message.startswith(f"c.yml:4: {given}")
    assert expected in message


def test_several_problems_are_listed_in_the_order_of_lines() -> None:
    message = refused("base_model: 5\nlora_r: many\ndatasets:\n  - path: x\n    tpe: alpaca\n")
    assert message.startswith("3 problems")
    assert message.index("c.yml:1") < message.index("c.yml:2") < message.index("c.yml:5")


def test_missing_keys_are_named() -> None:
    message = refused("lora_r: 8")
    assert 'the key "base_model" is missing' in message and 'the key "datasets" is missing' in message
    assert "c.yml:2" in refused("base_model: starter\ndatasets:\n")
    assert '"datasets.0.path" is missing' in refused("base_model: starter\ndatasets:\n  - type: alpaca\n")


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n"])
def test_an_empty_file(text: str) -> None:
    assert "the config is empty" in refused(text)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "42"])
def test_no_mapping(text: str) -> None:
    message = refused(text)
    assert message.startswith("c.yml:1: the config is") and "a mapping" in message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("base_model: starter\n\tlora_r: 8\n", 2, "tab"),
        ("base_model: starter\nlora_r: [1, 2\n", 3, "no YAML"),
        ("base_model: a: b\n", 1, "quotes"),
        ("base_model: starter\nlora_r: 8\n\nbase_model: other\n", 4, "given twice, in lines 1 and 4"),
        ("base_model: starter\ndatasets:\n - {path: a, path: b}\n", 3, "given twice"),
        ("? [a, b]\n: 1\n", 1, "a key must be a name"),
        ("a: &x [*x]\n", 1, "alias of itself"),
        ("a: *missing\n", 1, "no YAML"),
        ("a: \x00\n", 1, "no YAML"),
    ],
)
def test_bad_yaml(text: str, line: int, words: str) -> None:
    message = refused(text)
    assert f"c.yml:{line}: " in message and words in message


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_bytes(b"base_model: \xff\n")
    for name, words in [("confg.yml", 'did you mean "config.yml"?'), ("", "is a folder"), ("config.yml", "not UTF-8")]:
        with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
            load_config(tmp_path / name)


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("bf16: true\nfp16: true", ["bf16", "fp16"]),
        ("load_in_4bit: true", ["load_in_4bit", "adapter"]),
        ("adapter: qlora\nload_in_4bit: false", ["load_in_4bit", "qlora"]),
        ("stream_weights: true", ["stream_weights", "adapter: lora"]),
        ("adapter: qlora\nstream_weights: true", ["stream_weights", "adapter: qlora"]),
        ("adapter: lora\nload_in_4bit: true\nstream_weights: true", ["stream_weights", "load_in_4bit"]),
        ("adapter: lora\nlora_dropout: 0.05\nstream_weights: true", ["stream_weights", "lora_dropout: 0.05"]),
        ("saves_per_epoch: 2\nsave_steps: 10", ["saves_per_epoch", "save_steps"]),
        ("val_set_size: 0.1\nevals_per_epoch: 2\neval_steps: 10", ["evals_per_epoch", "eval_steps"]),
        ("evals_per_epoch: 2", ["evals_per_epoch", "val_set_size"]),
        ("eval_steps: 5", ["eval_steps", "val_set_size"]),
        ("eval_strategy: epoch", ["eval_strategy", "val_set_size"]),
        ("save_strategy: no\nsave_steps: 5", ["save_strategy", "save_steps"]),
        ("save_strategy: steps", ["save_strategy", "save_steps"]),
        ("warmup_steps: 5\nwarmup_ratio: 0.1", ["warmup_steps", "warmup_ratio"]),
        ("val_set_size: 1.5", ["val_set_size"]),
        ("test_datasets: [{path: a}]\nval_set_size: 0.1", ["test_datasets", "val_set_size"]),
        ("chat_template: jinja", ["chat_template_jinja"]),
        ("use_wandb: true", ["wandb_project"]),
        ("lora_target_linear: true\nlora_target_modules: [q_proj]", ["lora_target_linear"]),
    ],
)
def test_contradictions_are_named(lines: str, names: list[str]) -> None:
    message = refused(MINIMAL + lines)
    assert "c.yml:" in message and all(name in message for name in names)


def test_what_goes_together() -> None:
    assert parse_config(MINIMAL + "max_steps: 5\nnum_epochs: 3").max_steps == 5
    assert parse_config(MINIMAL + "adapter: qlora").load_in_4bit is True
    assert parse_config(MINIMAL + "val_set_size: 0.05\nevals_per_epoch: 2").evals_per_epoch == 2
    assert parse_config(MINIMAL + "evals_per_epoch: 0").evals_per_epoch == 0
    assert parse_config(MINIMAL + "chat_template_jinja: '{{ x }}'").chat_template == "jinja"


def test_numbers_may_be_text_and_null_is_unset() -> None:
    config = parse_config(
        MINIMAL + 'learning_rate: "5e-5"\nlora_r: "8"\nnum_epochs:\nval_set_size: null\nbf16: "true"\n'
    )
    assert (config.learning_rate, config.lora_r, config.num_epochs, config.bf16) == (5e-5, 8, 1, True)
    assert "num_epochs" not in config.model_fields_set
    assert parse_config(MINIMAL + "learning_rate: 5e-5").learning_rate == 5e-5


@pytest.mark.parametrize(
    ("lines", "trackers"),
    [
        ("wandb_project:\nwandb_entity:", []),
        ("wandb_project: x", ["wandb"]),
        ("wandb_project: x\nwandb_mode: disabled", []),
        ("mlflow_experiment_name: x\nuse_tensorboard: true", ["mlflow", "tensorboard"]),
        ("trackio_project_name: x", ["trackio"]),
        ("wandb_name: only-a-name", []),
    ],
)
def test_trackers_are_off_unless_named(lines: str, trackers: list[str]) -> None:
    assert parse_config(MINIMAL + lines).report_to == trackers


def test_full_fine_tuning_says_what_does_nothing_and_what_is_high() -> None:
    lora = MINIMAL + "adapter: lora\nlora_r: 8\nlearning_rate: 1e-4"
    assert parse_config(lora).remarks == []
    assert "full fine-tuning, and lora_r have no effect" in parse_config(lora, ["adapter="]).remarks[0].text
    large = parse_config(lora, ["adapter=", "lora_r=", "base_model=org/model"]).remarks
    assert [remark.level for remark in large] == ["warning"] and "is high" in large[0].text


def test_optimizers_and_schedulers_are_those_of_transformers() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    from whet.config.names import OPTIMIZERS, SCHEDULERS

    assert {item.value for item in OptimizerNames} >= set(OPTIMIZERS)
    assert {item.value for item in SchedulerType} >= set(SCHEDULERS)


NASTY = [
    "",
    "x",
    "[]",
    "{}",
    "[null]",
    "[[1]]",
    "{a: null}",
    "-1",
    "1e400",
    ".inf",
    "true",
    "2024-01-01",
    "0x10",
    "'\\0'",
]


@pytest.mark.parametrize("value", NASTY)
def test_no_value_of_any_key_escapes_as_another_error(value: str) -> None:
    from whet.config import DatasetConfig, DatasetType, RunConfig, SpecialTokens, known

    lines = [f"{key}: {value}" for key in (*RunConfig.model_fields, *known.names(), "plugins")]
    lines += [f"test_datasets: [{{path: a, {key}: {value}}}]" for key in DatasetConfig.model_fields]
    lines += [f"test_datasets: [{{path: a, type: {{{key}: {value}}}}}]" for key in DatasetType.model_fields]
    lines += [f"special_tokens: {{{key}: {value}}}" for key in SpecialTokens.model_fields]
    for line in lines:
        base = "" if line.startswith(("base_model:", "datasets:")) else MINIMAL
        try:
            parse_config(base + line + "\n", name="c.yml")
        except ConfigError as error:
            assert "c.yml:" in str(error), line
