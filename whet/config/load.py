"""From a YAML file to a checked :class:`RunConfig`, every problem with its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from whet.config import known
from whet.config.checks import advice, conflicts
from whet.config.dataset_keys import DatasetConfig, DatasetType
from whet.config.keys import Remark, RunConfig, SpecialTokens
from whet.config.nearest import did_you_mean
from whet.config.overrides import apply_overrides
from whet.config.yaml_lines import Document, Location, read_yaml
from whet.errors import ConfigError

MAX_SHOWN = 8  # problems listed in one message


class Problem(NamedTuple):
    """One thing that is wrong, ready for :class:`ConfigError`."""

    place: str
    given: str
    expected: str = ""
    fix: str = ""


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
    config = parse_config(_read_text(path), overrides, name=str(path))
    config._source = path
    return config


def parse_config(text: str, overrides: Sequence[str] = (), *, name: str = "config") -> RunConfig:
    """As :func:`load_config`, from text; ``name`` stands for the file in messages."""
    document = read_yaml(text, name)
    if document.values is None:
        raise ConfigError(
            f"{name}: the config is empty", "at least base_model and datasets", "see examples/ for a start"
        )
    if not isinstance(document.values, dict):
        kind = "a list" if isinstance(document.values, list) else "one value"
        raise ConfigError(
            f"{document.place(())}: the config is {kind}", "a mapping: lines such as  base_model: starter"
        )
    apply_overrides(document, overrides)
    found = list(_take_known(document, (), known.NOT_YET, known.NO_EFFECT))
    for key in ("datasets", "test_datasets"):
        entries = document.values.get(key)
        for index in range(len(entries) if isinstance(entries, list) else 0):
            found += _take_known(document, (key, index), known.DATASET_NOT_YET, {})
    problems = [item for item in found if isinstance(item, Problem)]
    if document.values.get("chat_template_jinja") and not document.values.get("chat_template"):
        document.values["chat_template"] = "jinja"  # as in Axolotl
    config = _validate(document, problems)
    for conflict in conflicts(config):
        problems.append(Problem(document.place((conflict.key,)) or name, conflict.given, fix=conflict.fix))
    _raise(problems)
    config._remarks = [item for item in found if isinstance(item, Remark)] + list(advice(config))
    if config.adapter == "qlora":
        config.load_in_4bit = True
    return config


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file", "a YAML file", did_you_mean(path.name, beside)) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder", "a YAML file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text", "a YAML file in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", "a YAML file") from error


def _take_known(
    document: Document, at: Location, not_yet: dict[str, str], no_effect: dict[str, str]
) -> Iterator[Problem | Remark]:
    """Remove the keys whet has no field for; report those whose value would matter, and note the rest."""
    values = document.values
    for step in at:
        values = values[step]
    if not isinstance(values, dict):
        return
    fields = DatasetConfig.model_fields if at else RunConfig.model_fields
    for key in [key for key in values if key not in fields]:
        place = document.place((*at, key))
        if key == "plugins" and not at:
            foreign = known.foreign_plugins(values.pop(key) or [])
            if foreign:
                yield Problem(place, f'the plugin "{foreign[0]}" is not supported yet', fix="remove it")
            continue
        stops, noted = known.reason(not_yet, key), known.reason(no_effect, key)
        if stops is None and noted is None:
            continue
        value = values.pop(key)
        if known.is_harmless(key, value):
            continue
        if stops is not None:
            fix = "remove the line, or leave its value empty"
            yield Problem(place, f'"{key}" is not supported yet (given: {shown(value)})', stops, fix)
        else:
            yield Remark("note", f"{place}: {key} has no effect here: {noted}", f"no effect: {key}")


def _validate(document: Document, problems: list[Problem]) -> RunConfig:
    values = _without_nulls(document.values)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems += [_explain(detail, document) for detail in error.errors()]
        _raise(problems)
        raise AssertionError("unreachable: a validation error holds at least one problem") from error


def _without_nulls(value: Any) -> Any:
    """Null means unset, at every depth of a mapping; a null inside a list stays, and is refused there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _raise(problems: list[Problem]) -> None:
    if not problems:
        return
    problems = sorted(problems, key=lambda problem: _line_number(problem.place))
    if len(problems) == 1:
        place, given, expected, fix = problems[0]
        raise ConfigError(f"{place}: {given}", expected, fix)
    texts = [str(ConfigError(f"{place}: {given}", expected, fix)) for place, given, expected, fix in problems]
    more = [f"... and {len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
    raise ConfigError("\n".join([f"{len(texts)} problems in the config", *texts[:MAX_SHOWN], *more]))


def _line_number(place: str) -> int:
    digits = place.rpartition(":")[2]
    return int(digits) if digits.isdigit() else 0


def _explain(detail: ErrorDetails, document: Document) -> Problem:
    location = tuple(step for step in detail["loc"] if not str(step).startswith("<"))
    place = document.place(location)
    path = ".".join(str(step) for step in location)
    if detail["type"] == "extra_forbidden":
        options = list(_model_at(location).model_fields)
        name = str(location[-1])
        everything = [*options, *known.names()] if len(location) == 1 else options
        return Problem(place, f'unknown key "{path}"', fix=did_you_mean(name, everything))
    if detail["type"] == "missing":
        described = _describe(location)
        return Problem(place, f'the key "{path}" is missing', f"{location[-1]}: {described}" if described else "")
    expected, _, hint = _expected(detail).partition("; ")
    described = _describe(location)
    given = f"{path} is {shown(detail['input'])}"
    fix = "put quotes around a value that is text" if expected == "text" and place.startswith("--set") else hint
    return Problem(place, given, f"{expected} ({described})" if described else expected, fix)


def _model_at(location: Location) -> type[BaseModel]:
    if location[0] in ("datasets", "test_datasets"):
        return DatasetType if "type" in location[:-1] else DatasetConfig
    return SpecialTokens if location[0] == "special_tokens" and len(location) > 1 else RunConfig


def _describe(location: Location) -> str:
    named = [str(step) for step in location if not isinstance(step, int)]
    depth = len(location) if not isinstance(location[-1], int) else len(location) - 1
    if not named or depth == 0:
        return ""
    field = _model_at(location[:depth]).model_fields.get(named[-1])
    return field.description or "" if field else ""


_KINDS = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "list_type": "a list: lines that begin with a dash",
    "dict_type": "a mapping: lines such as  key: value",
    "model_type": "a mapping: lines such as  key: value",
    "model_attributes_type": "a mapping: lines such as  key: value",
    "too_short": "at least one entry",
}


def _expected(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    kind = detail["type"]
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("more than", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("less than", "lt"),
    }
    if kind in bounds:
        words, name = bounds[kind]
        return f"{words} {context[name]:g}"
    if "expected" in context:
        return str(context["expected"])
    return _KINDS.get(kind, detail["msg"])


def shown(value: Any) -> str:
    """A value as a message shows it, with its kind."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "an empty list" if not value else f"a list of {len(value)}"
    if isinstance(value, str):
        return f'"{value if len(value) <= 60 else value[:57] + "..."}" (text)'
    if isinstance(value, bool):
        return f"{str(value).lower()} (true/false)"
    return "null" if value is None else f"{value} (a number)"
