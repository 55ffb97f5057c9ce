"""What becomes of a key (it works, is read as another, has no effect, is refused), and all there is to say about it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import yaml
from pydantic_core import PydanticUndefined

from whet.config import known
from whet.config.foreign import DATASET, RUN, TOKENS, TYPE, Level
from whet.config.key_notes import DIFFERENCES, EXAMPLES, OWN, UNITS
from whet.config.nearest import nearest
from whet.config.schema import config_schema
from whet.errors import ConfigError

State = Literal["works", "mapped", "no effect", "refused"]
LEVELS = {"": RUN, "datasets": DATASET, "test_datasets": DATASET, "special_tokens": TOKENS, "datasets.type": TYPE}
LEVELS["test_datasets.type"] = TYPE
_SEARCHED = ("", "datasets", "datasets.type", "special_tokens")  # where a bare name is looked for
_PLUGINS = "liger and cut_cross_entropy are built in; other plugins are refused"


class KeyState(NamedTuple):
    """``text`` says what the key means, or why it is not obeyed; ``fix`` what to do about it."""

    state: State
    text: str
    fix: str = ""


def state_of(key: str, level: Level = RUN) -> KeyState | None:
    """What becomes of ``key`` at one depth of a config; None for a key that is an error as unknown."""
    if key in level.model.model_fields:
        return KeyState("works", level.model.model_fields[key].description or "")
    if key == "plugins" and level is RUN:
        return KeyState("no effect", _PLUGINS)
    if key in level.mapped:
        return KeyState("mapped", level.mapped[key].text)
    refusal, text = known.find(level.refused, key), known.find(level.no_effect, key)
    if refusal is not None:
        return KeyState("refused", refusal.reason, refusal.fix)
    return KeyState("no effect", text) if text is not None else None


def explain_key(asked: str) -> str:
    """Everything about one key, as lines of text. ``asked``: a key, or a path such as datasets.0.type.

    Raises:
        ConfigError: no such key; with the nearest ones.
    """
    prefix, key = _find(asked)
    level = LEVELS[prefix]
    found = state_of(key, level)
    assert found is not None, "_find returns keys that have a state"
    lines = {"meaning" if found.state == "works" else "why": found.text}
    if found.state == "works":
        lines |= _about(prefix, key)
    lines |= {"state": found.state, "to do": found.fix, "Axolotl": _axolotl(key)}
    shown = f"{prefix.replace('datasets', 'datasets.N')}.{key}" if prefix else key
    return "\n".join([shown, *(f"  {name:<8} {text}" for name, text in lines.items() if text)])


def _find(asked: str) -> tuple[str, str]:
    names = [part for part in asked.strip().split(".") if part and not part.isdigit() and part != "N"]
    key, prefix = (names[-1] if names else ""), ".".join(names[:-1])
    places = [prefix] if prefix else _SEARCHED
    for place in places:
        if place in LEVELS and state_of(key, LEVELS[place]) is not None:
            return place, key
    options = [name for place in places if place in LEVELS for name in _names(LEVELS[place])]
    close = difflib.get_close_matches(key, options, n=3, cutoff=0.6)
    first = nearest(key, options)
    near = dict.fromkeys([*([first] if first else []), *close])
    hint = f"did you mean {' or '.join(near)}?" if near else f"keys hold others in {', '.join(filter(None, LEVELS))}"
    raise ConfigError(f'there is no key "{asked}"', "a key of docs/config.md", hint)


def _names(level: Level) -> Iterator[str]:
    tables: list[Any] = [level.model.model_fields, level.refused, level.no_effect, level.mapped]
    return (name for table in tables for name in table if "*" not in name)


def _about(prefix: str, key: str) -> dict[str, str]:
    field = LEVELS[prefix].model.model_fields[key]
    if field.default is PydanticUndefined:
        default = "none, it must be given"
    else:
        default = "unset" if field.default is None else _yaml(field.default)
    example = EXAMPLES.get(key, field.default)
    return {
        "type": type_text(prefix, key),
        "default": default,
        "unit": UNITS.get(key, ""),
        "example": f"{key}: {_yaml(example)}" if example is not None and example is not PydanticUndefined else "",
    }


def _yaml(value: Any) -> str:
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # JSON's strings are YAML's too, on one line
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def type_text(prefix: str, key: str) -> str:
    """The values that a key of whet's own may have, in words."""
    schema = config_schema()
    name = LEVELS[prefix].model.__name__
    node = schema if prefix == "" else schema["$defs"][name]
    words = [_words(option) for option in node["properties"][key]["anyOf"]]
    return ", or ".join(dict.fromkeys(word for word in words if word))


def _words(option: dict[str, Any]) -> str:
    values = option.get("enum", [option["const"]] if "const" in option else [])
    if values:
        shown = [str(value) for value in values]
        return ", ".join(shown) if len(shown) <= 12 else f"{', '.join(shown[:12])} and {len(shown) - 12} more"
    if "$ref" in option:
        keys = LEVELS["datasets.type" if option["$ref"].endswith("Type") else "special_tokens"].model.model_fields
        return f"a mapping with {', '.join(keys)}"
    kind = option.get("type")
    if kind == "array":
        return "a list of entries" if "$ref" in option["items"] else "a list of names"
    plain = {"boolean": "true or false", "object": "a mapping", "string": "text"}
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _bounds(option)
    return "" if "pattern" in option else plain.get(str(kind), "")


def _bounds(option: dict[str, Any]) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "below"}
    return "".join(f", {text} {option[name]:g}" for name, text in words.items() if name in option)


def _axolotl(key: str) -> str:
    if key in OWN:
        return "has no such key"
    difference = DIFFERENCES.get(key)
    return f"the same name; {difference}" if difference else "the same name"
