"""Every key that Axolotl's users have has a state here, and behaves as its state says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from whet.config import DatasetConfig, RunConfig, parse_config
from whet.config.dataset_keys import DatasetType
from whet.config.key_notes import DIFFERENCES, EXAMPLES, OWN, UNITS
from whet.config.keys import SpecialTokens
from whet.config.states import LEVELS, explain_key, state_of
from whet.errors import ConfigError

HERE = Path(__file__).parent
USED: dict[str, Any] = yaml.safe_load((HERE / "axolotl_keys.yml").read_text(encoding="utf-8"))
# What else a key needs, to be no contradiction.
BESIDE: dict[str, dict[str, Any]] = {
    "evals_per_epoch": {"val_set_size": 0.1},
    "eval_steps": {"val_set_size": 0.1},
    "eval_strategy": {"val_set_size": 0.1},
    "evaluation_strategy": {"val_set_size": 0.1},
    "load_in_4bit": {"adapter": "qlora"},
    "stream_weights": {"adapter": "lora"},
    "use_wandb": {"wandb_project": "x"},
    "rl_beta": {"rl": "dpo"},
    "orpo_alpha": {"rl": "orpo"},
    "rpo_alpha": {"rl": "dpo"},
    "cpo_alpha": {"rl": "simpo"},
    "simpo_gamma": {"rl": "simpo"},
    "kto_desirable_weight": {"rl": "kto"},
    "kto_undesirable_weight": {"rl": "kto"},
    "dpo_loss_type": {"rl": "dpo"},
    "dpo_label_smoothing": {"rl": "dpo"},
    "dpo_norm_loss": {"rl": "dpo"},
}


def config_with(level: str, key: str, value: Any) -> str:
    entry: dict[str, Any] = {"path": "rows.jsonl"}
    run: dict[str, Any] = {"base_model": "starter", "datasets": [entry]}
    if level == "run":
        run |= BESIDE.get(key, {})
        run[key] = value
    else:
        entry[key] = value
    return yaml.safe_dump(run, sort_keys=False)


@pytest.mark.parametrize(("level", "key"), [(level, key) for level in ("run", "dataset") for key in USED[level]])
def test_a_used_key_does_what_its_state_says(level: str, key: str) -> None:
    value = USED[level][key]
    found = state_of(key, LEVELS["" if level == "run" else "datasets"])
    assert found is not None and found.text
    text = config_with(level, key, value)
    if found.state == "refused":
        assert found.fix
        with pytest.raises(ConfigError, match=rf'c\.yml:\d+: "{key}" is not supported') as caught:
            parse_config(text, name="c.yml")
        assert found.text in str(caught.value) and f"to do: {found.fix}" in str(caught.value)
        return
    config = parse_config(text, name="c.yml")
    notes = [remark.text for remark in config.remarks if remark.level == "note" and f": {key} " in remark.text]
    assert len(notes) == (0 if found.state == "works" else 1)
    owner = config if level == "run" else config.datasets[0]
    assert (key in owner.model_fields_set) == (found.state == "works")


@pytest.mark.parametrize("kind", USED["types"], ids=str)
def test_the_used_types_are_read(kind: Any) -> None:
    assert parse_config(config_with("dataset", "type", kind)).datasets[0].type is not None


def names_of(depth: str) -> list[str]:
    parts = re.split(r"^# (run|dataset|type)$", (HERE / "axolotl_names.txt").read_text(encoding="utf-8"), flags=re.M)
    return parts[parts.index(depth) + 1].split()


@pytest.mark.parametrize(("depth", "level"), [("run", ""), ("dataset", "datasets"), ("type", "datasets.type")])
def test_every_key_of_axolotl_has_a_state(depth: str, level: str) -> None:
    names = names_of(depth)
    assert len(names) > 10
    assert [name for name in names if state_of(name, LEVELS[level]) is None] == []


@pytest.mark.parametrize("line", ["learning_rat:", "rl_beat: 0.1", "fsdp_confgi: {a: b}", "peft_use_rsloar: true"])
def test_a_slip_is_a_slip_though_it_is_empty_or_fits_a_pattern(line: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yml:3: unknown key .*\n.*did you mean"):
        parse_config(f"base_model: starter\ndatasets: [{{path: a}}]\n{line}", name="c.yml")


def test_no_key_of_axolotl_is_taken_for_a_slip() -> None:
    for name in set(names_of("run")) - {"special_tokens"}:
        text = yaml.safe_dump({"base_model": "x", "datasets": [{"path": "a"}], name: {"odd": 1}})
        try:
            parse_config(text)
        except ConfigError as error:
            assert "unknown key" not in str(error), name


def test_a_refusal_says_why_and_what_to_do() -> None:
    for level in LEVELS.values():
        for key, refusal in level.refused.items():
            assert refusal.reason and refusal.fix, key
            assert "later version" not in refusal.reason, key


@pytest.mark.parametrize(
    ("line", "sets"),
    [
        ("bfloat16: true", {"bf16": True}),
        ("float16: true", {"fp16": True}),
        ("float32: true", {"bf16": False, "fp16": False}),
        ("evaluation_strategy: epoch\nval_set_size: 0.1", {"eval_strategy": "epoch"}),
        ("gradient_checkpointing: offload", {"gradient_checkpointing": True}),
    ],
)
def test_mapped_keys_set_the_others_with_one_notice(line: str, sets: dict[str, Any]) -> None:
    config = parse_config(f"base_model: starter\ndatasets: [{{path: a}}]\n{line}", name="c.yml")
    assert {key: getattr(config, key) for key in sets} == sets
    assert [remark.text.startswith("c.yml:3: ") for remark in config.remarks] == [True]


@pytest.mark.parametrize("line", ["bfloat16: true\nbf16: false", "float16: 3", "shuffle_merged_datasets: false"])
def test_a_mapped_key_against_its_other_and_a_false_that_matters(line: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yml:3: "):
        parse_config(f"base_model: starter\ndatasets: [{{path: a}}]\n{line}", name="c.yml")


@pytest.mark.parametrize("line", ["tokenizer_use_fast: false", "save_safetensors: false", "tokenizer_legacy: false"])
def test_false_is_noticed_where_it_asks_for_something(line: str) -> None:
    remarks = parse_config(f"base_model: starter\ndatasets: [{{path: a}}]\n{line}", name="c.yml").remarks
    assert [remark.level for remark in remarks] == ["note"]


def test_notes_name_keys_that_exist() -> None:
    fields = {*RunConfig.model_fields, *DatasetConfig.model_fields, *DatasetType.model_fields}
    everything = fields | {*SpecialTokens.model_fields, *LEVELS[""].refused, *LEVELS[""].no_effect}
    assert {*UNITS, *OWN} <= fields and set(DIFFERENCES) <= everything
    preference = ("rl", "dpo_", "rpo_", "orpo_", "simpo_", "cpo_", "kto_")
    assert {key for key in EXAMPLES if not key.startswith(preference)} <= everything


PATHS = [
    *RunConfig.model_fields,
    *(f"datasets.{key}" for key in DatasetConfig.model_fields),
    *(f"datasets.type.{key}" for key in DatasetType.model_fields),
    *(f"special_tokens.{key}" for key in SpecialTokens.model_fields),
]


@pytest.mark.parametrize("path", PATHS)
def test_explain_shows_an_example_that_can_be_used(path: str) -> None:
    text = explain_key(path)
    said = {line[2:11].strip(): line[11:] for line in text.splitlines()[1:]}
    assert {"meaning", "type", "default", "example", "state", "Axolotl"} <= said.keys()
    prefix, _, key = path.rpartition(".")
    given = yaml.safe_load(said["example"])
    assert list(given) == [key]
    if prefix.startswith("datasets"):
        entry = {"path": "a", "type": given} if prefix.endswith("type") else {"path": "a"} | given
        run: dict[str, Any] = {"datasets": [entry]}
    else:
        run = {"special_tokens": given} if prefix else {**BESIDE.get(key, {}), **given}
    whole = {"base_model": "starter", "datasets": [{"path": "a"}]} | run
    parse_config(yaml.safe_dump(whole))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("lora_r", ["a whole number, at least 1", "default  16", "unit", "lora_r: 16", "state    works"]),
        ("datasets.0.type", ["datasets.N.type", "chat_template", "or a mapping with field_instruction"]),
        ("datasets.3.type.field_input", ["datasets.N.type.field_input", "context"]),
        ("field_chosen", ["datasets.N.field_chosen"]),
        ("trust_remote_code", ["state    refused", "to do"]),
        ("bfloat16", ["state    mapped", "bf16: true"]),
        ("liger_rope", ["state    no effect"]),
        ("sequence_len", ["unit     tokens", "there 512 by default"]),
        ("train_on", ["has no such key"]),
    ],
)
def test_explain_says(asked: str, words: list[str]) -> None:
    text = explain_key(asked)
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("learing_rate", "learning_rate"),
        ("max_seq_length", "sequence_len"),
        ("datasets.0.tpye", "type"),
        ("lora_rr", "lora_r"),
        ("", "base_model"),
        ("no.such.place", "datasets"),
    ],
)
def test_explain_of_an_unknown_key_names_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(ConfigError, match="there is no key") as caught:
        explain_key(asked)
    assert near in caught.value.fix or not asked


def test_the_list_of_used_keys_is_the_published_one(shared: Path) -> None:
    text = (shared / "facts" / "axolotl_config.md").read_text(encoding="utf-8")
    most_used = text[text.index("## The most used keys") : text.index("Dataset types:")]
    keys, of_datasets = (part for part in most_used.split("\n", 1)[1].split("Dataset keys:"))
    plain = re.sub(r"\([^)]*\)", " ", keys)
    named = set(re.findall(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)*\b(?!\*)", plain)) - {"wandb", "liger"}
    assert len(named) > 60 and named - set(USED["run"]) - {"datasets"} == set()
    assert set(re.findall(r"[a-z_]+", re.sub(r"\([^)]*\)", " ", of_datasets))) - set(USED["dataset"]) == set()
