"""The schema accepts what loading accepts, and marks what loading refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from json_schema import problems

from whet.config import DatasetConfig, RunConfig, load_config, parse_config
from whet.config.schema import DIALECT, config_schema
from whet.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = config_schema()
MINIMAL: dict[str, Any] = {"base_model": "starter", "datasets": [{"path": "rows.jsonl"}]}
USED = yaml.safe_load((Path(__file__).parent / "axolotl_keys.yml").read_text(encoding="utf-8"))


def marked(config: dict[str, Any]) -> list[str]:
    return problems(config, SCHEMA, SCHEMA)


def test_it_is_json_of_the_named_dialect() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA and SCHEMA["$schema"] == DIALECT
    assert SCHEMA["required"] == ["base_model"]
    rows = {"datasets": [{"path": "a"}]}, {"pretraining_dataset": "a"}  # one of them is needed
    assert [bool(marked({"base_model": "x"} | more)) for more in (*rows, {})] == [False, False, True]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path: Path) -> None:
    load_config(path)
    assert marked(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


def test_the_articles_config_is_valid_but_for_what_loading_refuses(shared: Path) -> None:
    path = shared / "acceptance" / "tutorial_dpo.yml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "rl" not in RunConfig.model_fields:
        assert [text.partition(":")[0] for text in marked(config)] == [".rl"]
        del config["rl"]
    assert marked(config) == []


def test_every_key_has_a_description_and_may_be_null() -> None:
    for name, node in SCHEMA["properties"].items():
        assert node["description"], name
        if name not in (*SCHEMA["required"], "datasets"):
            assert marked(MINIMAL | {name: None}) == [], name
    for model in SCHEMA["$defs"].values():
        assert all(node["description"] for node in model["properties"].values())


def test_defaults_and_enums_are_the_codes() -> None:
    for name, field in RunConfig.model_fields.items():
        if field.default is not None and not field.is_required():
            assert SCHEMA["properties"][name]["default"] == field.default
            assert marked(MINIMAL | {name: field.default}) == []
    scheduler = SCHEMA["properties"]["lr_scheduler"]["anyOf"][0]["enum"]
    assert "cosine" in scheduler and "warmup_stable_decay" in scheduler
    assert "chat_template.default" in SCHEMA["$defs"]["DatasetConfig"]["properties"]["type"]["anyOf"][0]["enum"]


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("learing_rate", 1e-4, ".learing_rate"),
        ("lora_r", "many", ".lora_r"),
        ("lora_r", 0, ".lora_r"),
        ("warmup_steps", -1, ".warmup_steps"),
        ("bf16", "maybe", ".bf16"),
        ("optimizer", "adamw", ".optimizer"),
        ("special_tokens", {"pad_tokn": "x"}, ".special_tokens"),
        ("datasets", [{"path": "a", "tpye": "alpaca"}], ".datasets.0.tpye"),
        ("datasets", [{"path": "a", "type": {"field_instuction": "q"}}], ".datasets.0.type"),
        ("datasets", [{"path": "a", "roles": {"asistant": ["x"]}}], ".datasets.0.roles"),
        ("datasets", [{"type": "alpaca"}], ".datasets.0.path"),
        ("datasets", [], ".datasets"),
        ("base_model", None, ".base_model"),
        ("fsdp_config", {"a": 1}, ".fsdp_config"),
        ("trust_remote_code", True, ".trust_remote_code"),
        ("plugins", ["axolotl.integrations.kd.KDPlugin"], ".plugins"),
    ],
)
def test_a_mistake_is_marked_where_it_stands(key: str, value: Any, place: str) -> None:
    assert any(text.startswith(place) for text in marked(MINIMAL | {key: value}))
    with pytest.raises(ConfigError):
        parse_config(yaml.safe_dump(MINIMAL | {key: value}))


VALUES = [None, "", "x", "auto", "5e-5", "yes", "no", True, False, 0, 1, 3, -1, 0.5, [], ["a"], {}, {"a": "b"}]


def loads(config: dict[str, Any]) -> bool:
    try:
        parse_config(yaml.safe_dump(config))
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_loads_is_valid(value: Any) -> None:
    """For every key of every depth: the editor marks nothing that whet would take."""
    for key in SCHEMA["properties"]:
        config = MINIMAL | {key: value}
        assert not loads(config) or marked(config) == [], key
    for key in DatasetConfig.model_fields:
        config = MINIMAL | {"test_datasets": [{"path": "a", key: value}]}
        assert not loads(config) or marked(config) == [], key


@pytest.mark.parametrize("value", ["x", 3, ["a"], {"a": "b"}, 0.5], ids=str)
def test_a_refused_key_is_marked(value: Any) -> None:
    """Keys of Axolotl's that whet refuses: the editor marks the same values."""
    for key in (name for name in USED["run"] if name not in RunConfig.model_fields):
        assert (marked(MINIMAL | {key: value}) == []) == loads(MINIMAL | {key: value}), key
