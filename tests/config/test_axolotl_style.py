"""Whole configs as Axolotl's users write them: each loads, or is refused for the stated key; typos are caught."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from json_schema import problems

from whet.config import parse_config
from whet.config.schema import config_schema
from whet.errors import ConfigError

FILE = Path(__file__).parent / "axolotl_style.yml"
PARTS = re.split(r"^--- # (.*) \| (.*)\n", FILE.read_text(encoding="utf-8"), flags=re.M)[1:]
CONFIGS = [
    pytest.param(text, outcome, id=title.replace(" ", "-"))
    for title, outcome, text in zip(PARTS[::3], PARTS[1::3], PARTS[2::3], strict=True)
]
SCHEMA = config_schema()


def test_there_are_enough() -> None:
    assert len(CONFIGS) >= 40


@pytest.mark.parametrize(("text", "outcome"), CONFIGS)
def test_it_loads_or_is_refused_for_the_stated_key(text: str, outcome: str) -> None:
    marked = problems(yaml.safe_load(text), SCHEMA, SCHEMA)
    if outcome == "loads":
        parse_config(text, name="c.yml")
        assert marked == []
        return
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="c.yml")
    assert re.search(rf'c\.yml:\d+: "?{re.escape(outcome)}\b', str(caught.value))
    assert any(text.startswith(f".{outcome}") for text in marked)


def with_typos(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a config with one key misspelled, at any depth that whet knows, and the key."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from ((key, [*value[:index], copy, *value[index + 1 :]]) for key, copy in with_typos(item))
    elif isinstance(value, dict):
        for key, item in value.items():
            swapped = key[:-2] + key[-1] + key[-2] if key[-1] != key[-2] else key[:-1]
            yield key, {(swapped if name == key else name): other for name, other in value.items()}
            if key in ("datasets", "test_datasets", "type", "special_tokens"):
                yield from ((inner, value | {key: copy}) for inner, copy in with_typos(item))


@pytest.mark.parametrize("text", [param.values[0] for param in CONFIGS if param.values[1] == "loads"])
def test_a_typo_at_any_depth_is_caught_with_line_and_suggestion(text: str) -> None:
    for key, config in with_typos(yaml.safe_load(text)):
        if key == "rl":  # "lr" means learning_rate
            continue
        with pytest.raises(ConfigError, match=r"c\.yml:\d+: unknown key") as caught:
            parse_config(yaml.safe_dump(config, sort_keys=False), name="c.yml")
        assert f'did you mean "{key}"?' in str(caught.value)
