"""From a YAML file to a checked :class:`RunConfig`, every problem with its line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from whet.config.advice import advice
from whet.config.checks import conflicts
from whet.config.foreign import take_foreign
from whet.config.keys import STARTER, Remark, RunConfig
from whet.config.nearest import did_you_mean
from whet.config.overrides import apply_overrides
from whet.config.problems import Finding, as_error, explain
from whet.config.yaml_lines import Document, Place, read_yaml
from whet.errors import ConfigError


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override, check.

    Args:
        path: the YAML file.
        overrides: ``key=value`` texts of ``--set``, applied in order.

    Raises:
        ConfigError: a missing or empty file, no YAML, no mapping, an unknown or unsupported key, a wrong value,
            settings that contradict each other; with file and line.
    """
    path = Path(path)
    config = parse_config(read_text(path), overrides, name=str(path))
    config._source = path
    return config


def parse_config(text: str, overrides: Sequence[str] = (), *, name: str = "config") -> RunConfig:
    """As :func:`load_config`, from text; ``name`` stands for the file in messages."""
    config, findings = inspect_config(text, overrides, name=name)
    if config is None:
        raise as_error(findings)
    return config


def inspect_config(
    text: str, overrides: Sequence[str] = (), *, name: str = "config"
) -> tuple[RunConfig | None, list[Finding]]:
    """The config, or None where it has errors, and everything that was found: errors, warnings and notes.

    Raises:
        ConfigError: no YAML, no mapping, a bad override: nothing more can be said then.
    """
    document = read_yaml(text, name)
    if document.values is None:
        raise ConfigError(
            f"{name}: the config is empty", "at least base_model and datasets", "see examples/ for a start"
        )
    if not isinstance(document.values, dict):
        kind = "a list" if isinstance(document.values, list) else "one value"
        expected = "a mapping: lines such as  base_model: starter"
        raise ConfigError(f"the config is {kind}", expected, place=document.place(()))
    apply_overrides(document, overrides)
    findings = list(take_foreign(document))
    if document.values.get("chat_template_jinja") and not document.values.get("chat_template"):
        document.values["chat_template"] = "jinja"  # as in Axolotl
    config, wrong = _validate(document, findings)
    if config is None:
        return None, findings
    remarks = [Remark("note", f"{item.place}: {item.given}", item.key) for item in findings if item.level == "note"]
    for remark in advice(config):
        if wrong and not _holds(remark, config, wrong):
            continue
        remarks.append(remark)
        findings.append(Finding(remark.level, document.place((remark.key,)), remark.text, key=remark.key))
    if any(item.level == "error" for item in findings):
        return None, findings
    config._remarks = remarks
    if config.adapter == "qlora":
        config.load_in_4bit = True
    return config, findings


def read_text(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: no file, a folder, no UTF-8, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file", "a YAML file", did_you_mean(path.name, beside)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder", "a YAML file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8 text", "a YAML file in UTF-8", place=Place(str(path), line, 1)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", "a YAML file") from error


def _validate(document: Document, findings: list[Finding]) -> tuple[RunConfig | None, set[str]]:
    """The config, or what can be used of it, and the keys that were left out as wrong."""
    values = _without_nulls(document.values)
    wrong: set[str] = set()
    config: RunConfig | None
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        findings += [explain(detail, document) for detail in error.errors()]
        wrong = {str(detail["loc"][0]) for detail in error.errors()}
        config = _without(values, wrong)
    if config is None:
        return None, wrong
    for conflict in conflicts(config):
        text = f"{conflict.key} {conflict.given} {conflict.fix}"
        if wrong.isdisjoint(re.findall(r"\w+", text)):
            findings.append(Finding("error", document.place((conflict.key,)), conflict.given, fix=conflict.fix))
    return config, wrong


def _holds(remark: Remark, config: RunConfig, wrong: set[str]) -> bool:
    """Whether a remark is about what was given, and not about the default of a key that is wrong."""
    words = {*re.findall(r"\w+", remark.text), "adapter", "rl"}
    return remark.key in config.model_fields_set and wrong.isdisjoint(words)


def _without(values: dict[str, Any], wrong: set[str]) -> RunConfig | None:
    """The config without its wrong keys, so that contradictions among the others are found in the same go."""
    stand_ins = {"base_model": STARTER, "datasets": [{"path": STARTER}]}
    try:
        return RunConfig.model_validate(stand_ins | {key: item for key, item in values.items() if key not in wrong})
    except ValidationError:
        return None


def _without_nulls(value: Any) -> Any:
    """Null means unset, at every depth of a mapping; a null inside a list stays, and is refused there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
