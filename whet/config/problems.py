"""What is wrong with a config, or worth knowing about it, in words."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from whet.config import known
from whet.config.dataset_keys import DatasetConfig, DatasetType
from whet.config.keys import RunConfig, SpecialTokens
from whet.config.nearest import did_you_mean
from whet.config.yaml_lines import Document, Location, Place
from whet.errors import ConfigError

MAX_SHOWN = 8  # problems listed in one error


class Finding(NamedTuple):
    """An error, a warning or a note, with its place; the texts are as in :class:`whet.errors.WhetError`."""

    level: Literal["error", "warning", "note"]
    place: Place
    given: str
    expected: str = ""
    fix: str = ""
    key: str = ""  # for warnings and notes: says the same thing once


def as_error(findings: list[Finding]) -> ConfigError:
    """One exception for all errors among ``findings``, in the order of their lines."""
    errors = sorted((item for item in findings if item.level == "error"), key=lambda item: item.place.line)
    if len(errors) == 1:
        _, place, given, expected, fix, _ = errors[0]
        return ConfigError(given, expected, fix, place)
    texts = [str(ConfigError(item.given, item.expected, item.fix, item.place)) for item in errors]
    more = [f"... and {len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
    return ConfigError("\n".join([f"{len(texts)} problems in the config", *texts[:MAX_SHOWN], *more]))


def explain(detail: ErrorDetails, document: Document) -> Finding:
    """What pydantic found, with place, value and the key's own description."""
    location = tuple(step for step in detail["loc"] if not str(step).startswith("<"))
    place = document.place(location)
    path = ".".join(str(step) for step in location)
    if detail["type"] == "extra_forbidden":
        return unknown(location, document)
    if detail["type"] == "missing":
        described = _describe(location)
        expected = f"{location[-1]}: {described}" if described else ""
        return Finding("error", place, f'the key "{path}" is missing', expected)
    expected, _, hint = _expected(detail).partition("; ")
    described = _describe(location)
    given = f"{path} is {shown(detail['input'])}"
    fix = "put quotes around a value that is text" if expected == "text" and place.line == 0 else hint
    return Finding("error", place, given, f"{expected} ({described})" if described else expected, fix)


def unknown(location: Location, document: Document) -> Finding:
    """A key that is none, with the nearest one."""
    options = list(model_at(location).model_fields)
    everything = [*options, *known.names()] if len(location) == 1 else options
    given = f'unknown key "{".".join(str(step) for step in location)}"'
    return Finding("error", document.place(location), given, fix=did_you_mean(str(location[-1]), everything))


def model_at(location: Location) -> type[BaseModel]:
    """The model whose field the last step of ``location`` is."""
    if location[0] in ("datasets", "test_datasets"):
        return DatasetType if "type" in location[:-1] else DatasetConfig
    return SpecialTokens if location[0] == "special_tokens" and len(location) > 1 else RunConfig


def _describe(location: Location) -> str:
    named = [str(step) for step in location if not isinstance(step, int)]
    depth = len(location) if not isinstance(location[-1], int) else len(location) - 1
    if not named or depth == 0:
        return ""
    field = model_at(location[:depth]).model_fields.get(named[-1])
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
