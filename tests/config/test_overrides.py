"""``--set`` reaches into lists, reads YAML values, and says what does not lead anywhere."""

from __future__ import annotations

import pytest

from whet.config import DatasetType, parse_config
from whet.errors import ConfigError

TEXT = "base_model: starter\ndatasets:\n  - path: rows.jsonl\n    type: {field_output: answer}\n"


def test_values_are_yaml() -> None:
    config = parse_config(
        TEXT,
        ["learning_rate=1e-4", "sample_packing=false", "wandb_project=", "lora_target_modules=[q_proj, v_proj]"],
    )
    assert (config.learning_rate, config.sample_packing, config.wandb_project) == (1e-4, False, None)
    assert config.lora_target_modules == ["q_proj", "v_proj"]


def test_reaches_into_lists_and_mappings_and_the_last_wins() -> None:
    config = parse_config(
        TEXT,
        [
            "datasets.0.path=a.jsonl",
            "datasets.0.path=../b=c.jsonl",
            "datasets.0.split=train[:50]",
            "datasets.0.type.field_instruction=question",
            "datasets.1.path=second.csv",
            "special_tokens.pad_token='<|pad|>'",
        ],
    )
    first, second = config.datasets
    assert (first.path, first.split, second.path) == ("../b=c.jsonl", "train[:50]", "second.csv")
    assert isinstance(first.type, DatasetType)
    assert (first.type.field_instruction, first.type.field_output) == ("question", "answer")
    assert config.special_tokens is not None and config.special_tokens.pad_token == "<|pad|>"


def test_can_give_what_the_file_lacks() -> None:
    assert parse_config("base_model: starter", ["datasets.0.path=x.jsonl"]).datasets[0].path == "x.jsonl"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learning_rate", "no key and value"),
        ("=5", "no key and value"),
        ("a..b=5", "no key and value"),
        ("lora_r=[1", "the value is no YAML"),
        ("datasets.5.path=x", "datasets has 1 entries"),
        ("datasets.path=x", "datasets is a list"),
        ("base_model.x=1", "base_model is not a list or mapping"),
        ("datasets.0.path.0=1", "datasets.0.path is not a list or mapping"),
        ("0=1", "the config is a mapping"),
        ("learnig_rate=1", 'did you mean "learning_rate"?'),
        ("datasets.0.pth=1", 'did you mean "path"?'),
        ("lora_r=many", "a whole number"),
        ("datasets.0.type.format=Q: {input}", "put quotes around"),
        ("base_model=", '"base_model" is missing'),
    ],
)
def test_a_bad_override_names_itself(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT, [override], name="c.yml")
    assert f"--set {override}: " in str(caught.value) and words in str(caught.value)
