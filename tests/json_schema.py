"""A small validator for the words of JSON Schema 2020-12 that the config's schema uses; it fails on any other word."""

from __future__ import annotations

import re
from typing import Any

ABOUT = {"$schema", "$defs", "title", "description", "default", "examples", "deprecated", "deprecationMessage"}
ABOUT |= {"doNotSuggest"}
_KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def problems(value: Any, node: dict[str, Any], root: dict[str, Any], at: str = "") -> list[str]:
    """Where ``value`` breaks ``node``; empty when it is valid."""
    found: list[str] = []
    for word, rule in node.items():
        if word in ABOUT or word in ("patternProperties", "additionalProperties"):
            continue
        check = globals().get(f"_{word.strip('$')}")
        assert check is not None, f"the validator does not know {word}"
        found += check(value, rule, root, at)
    if isinstance(value, dict):
        found += _other_keys(value, node, root, at)
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _type(value: Any, kind: str, root: Any, at: str) -> list[str]:
    if kind in ("integer", "number"):
        good = _number(value) and (kind == "number" or value == int(value))
    else:
        good = isinstance(value, _KINDS[kind])
    return [] if good else [f"{at}: no {kind}"]


def _enum(value: Any, values: list[Any], root: Any, at: str) -> list[str]:
    return [] if any(_same(value, item) for item in values) else [f"{at}: not among {values}"]


def _const(value: Any, wanted: Any, root: Any, at: str) -> list[str]:
    return _enum(value, [wanted], root, at)


def _anyOf(value: Any, options: list[dict[str, Any]], root: Any, at: str) -> list[str]:
    tried = [problems(value, option, root, at) for option in options]
    return [] if any(not each for each in tried) else [f"{at}: none of {len(options)}", *min(tried, key=len)]


def _ref(value: Any, name: str, root: Any, at: str) -> list[str]:
    return problems(value, root["$defs"][name.removeprefix("#/$defs/")], root, at)


def _pattern(value: Any, pattern: str, root: Any, at: str) -> list[str]:
    return [f"{at}: not like {pattern}"] if isinstance(value, str) and not re.search(pattern, value) else []


def _minLength(value: Any, least: int, root: Any, at: str) -> list[str]:
    return [f"{at}: too short"] if isinstance(value, str) and len(value) < least else []


def _minItems(value: Any, least: int, root: Any, at: str) -> list[str]:
    return [f"{at}: too few"] if isinstance(value, list) and len(value) < least else []


def _minimum(value: Any, bound: float, root: Any, at: str) -> list[str]:
    return [f"{at}: below {bound}"] if _number(value) and value < bound else []


def _exclusiveMinimum(value: Any, bound: float, root: Any, at: str) -> list[str]:
    return [f"{at}: not above {bound}"] if _number(value) and value <= bound else []


def _exclusiveMaximum(value: Any, bound: float, root: Any, at: str) -> list[str]:
    return [f"{at}: not below {bound}"] if _number(value) and value >= bound else []


def _items(value: Any, node: dict[str, Any], root: Any, at: str) -> list[str]:
    entries = enumerate(value if isinstance(value, list) else [])
    return [text for index, item in entries for text in problems(item, node, root, f"{at}.{index}")]


def _required(value: Any, names: list[str], root: Any, at: str) -> list[str]:
    return [f"{at}.{name}: missing" for name in names if isinstance(value, dict) and name not in value]


def _propertyNames(value: Any, node: dict[str, Any], root: Any, at: str) -> list[str]:
    return [text for name in (value if isinstance(value, dict) else []) for text in problems(name, node, root, at)]


def _properties(value: Any, nodes: dict[str, Any], root: Any, at: str) -> list[str]:
    given = value.items() if isinstance(value, dict) else []
    return [text for key, item in given if key in nodes for text in problems(item, nodes[key], root, f"{at}.{key}")]


def _other_keys(value: dict[str, Any], node: dict[str, Any], root: Any, at: str) -> list[str]:
    found: list[str] = []
    rest = node.get("additionalProperties", True)
    for key, item in value.items():
        matched = [rule for pattern, rule in node.get("patternProperties", {}).items() if re.search(pattern, key)]
        for rule in matched:
            found += problems(item, rule, root, f"{at}.{key}")
        if matched or key in node.get("properties", {}):
            continue
        if rest is False:
            found.append(f"{at}.{key}: unknown")
        elif isinstance(rest, dict):
            found += problems(item, rest, root, f"{at}.{key}")
    return found
