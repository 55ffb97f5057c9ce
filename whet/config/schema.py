"""The config as JSON Schema, draft 2020-12, for editors: completion, descriptions, and red lines under mistakes.

Pydantic writes the schema of the models; here it is widened to what loading accepts as well: null for unset, numbers
and truth values as text, and Axolotl's keys that whet maps, notes or refuses. ``doNotSuggest`` and
``deprecationMessage`` are the words of VS Code and of yaml-language-server for keys that completion should leave out;
others ignore them.
"""

from __future__ import annotations

import re
from typing import Any

from whet.config import known
from whet.config.dataset_keys import DATASET_TYPES, MESSAGE_PROPERTIES, ROLE_TARGETS
from whet.config.foreign import DATASET, RUN, TOKENS, TYPE, Level
from whet.config.key_notes import EXAMPLES, UNITS
from whet.config.keys import RunConfig
from whet.config.types import FALSE_WORDS, TRUE_WORDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBER = r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_WORDS = "|".join("".join(f"[{c.upper()}{c}]" for c in word) for word in (*TRUE_WORDS, *FALSE_WORDS))
_ABOUT = ("description", "default", "examples", "title")
# YAML reads a bare "no" as false; these keys know what is meant.
_FALSE_TOO = ("save_strategy", "eval_strategy", "wandb_watch", "wandb_log_model")

Node = dict[str, Any]


def config_schema() -> Node:
    """The schema of a config file; ``whet config schema`` prints it."""
    raw = RunConfig.model_json_schema()
    models = raw.pop("$defs")
    schema = {
        "$schema": DIALECT,
        "title": "whet config",
        "description": "A training run of whet. The key names are Axolotl's.",
        **_object(raw, RUN),
        "$defs": {
            "DatasetConfig": _object(models["DatasetConfig"], DATASET),
            "DatasetType": _object(models["DatasetType"], TYPE),
            "SpecialTokens": _object(models["SpecialTokens"], TOKENS),
        },
    }
    schema["properties"]["plugins"] = _plugins()
    schema["properties"]["excess_length_strategy"]["anyOf"].append({"const": "raise"})
    schema["required"] = [name for name in schema["required"] if name != "datasets"]
    schema["anyOf"] = [{"required": ["datasets"]}, {"required": ["pretraining_dataset"]}]
    return schema


def _object(model: Node, level: Level) -> Node:
    required = model.get("required", [])
    properties = {name: _property(name, node, name in required) for name, node in model["properties"].items()}
    patterns: Node = {}
    exact = {*properties, *(key for key in (*level.refused, *level.no_effect, *level.mapped) if "*" not in key)}
    for key, node in _foreign(level):
        if "*" in key:
            ending = re.escape(key).replace(r"\*", ".*")
            others = [name for name in sorted(exact) if re.fullmatch(ending, name)]
            patterns[f"^(?!(?:{'|'.join(map(re.escape, others))})$){ending}$" if others else f"^{ending}$"] = node
        elif key not in properties:
            properties[key] = node
    whole = {"type": "object", "properties": properties, "additionalProperties": False}
    return whole | ({"patternProperties": patterns} if patterns else {}) | ({"required": required} if required else {})


def _foreign(level: Level) -> list[tuple[str, Node]]:
    """The keys that whet has no field for: what they may hold, and what becomes of them. Refused ones win."""
    found: list[tuple[str, Node]] = []
    for key, refusal in level.refused.items():
        found.append((key, _hidden(f"refused: {refusal.reason}; {refusal.fix}") | {"enum": known.harmless(key)}))
    for key, text in level.no_effect.items():
        if key not in level.refused:
            found.append((key, _hidden(f"no effect: {text}")))
    for key, mapped in level.mapped.items():
        found.append((key, _hidden(mapped.text)))
    return found


def _hidden(text: str) -> Node:
    return {"description": text, "deprecated": True, "deprecationMessage": text, "doNotSuggest": True}


def _plugins() -> Node:
    entry = {"type": "string", "pattern": "|".join(known.PLUGINS)}
    return _hidden("no effect: what Liger and CutCrossEntropy do is built in; other plugins are refused") | {
        "anyOf": [{"type": "array", "items": entry}, entry, {"enum": known.harmless("plugins")}]
    }


def _property(name: str, node: Node, required: bool) -> Node:
    about = {key: node[key] for key in _ABOUT if node.get(key) is not None and key != "title"}
    if name in UNITS:
        about["description"] = f"{about['description']} (unit: {UNITS[name]})"
    if name in EXAMPLES:
        about["examples"] = [EXAMPLES[name]]
    body = {key: item for key, item in node.items() if key not in _ABOUT}
    options = [wide for option in body.get("anyOf", [body]) for wide in _widened(name, option)]
    if name in _FALSE_TOO:
        options.append({"type": "boolean"} if name.startswith("wandb") else {"const": False})
    options = [option for option in options if option != {"type": "null"}]
    return about | {"anyOf": options if required else [*options, {"type": "null"}]}


def _widened(name: str, option: Node) -> list[Node]:
    option = {_BOUNDS.get(key, key): item for key, item in option.items()}
    if name == "type" and "oneOf" in option:
        return [{"enum": list(DATASET_TYPES)}, option["oneOf"][1]]
    if name in ("roles", "message_property_mappings") and "additionalProperties" in option:
        option["propertyNames"] = {"enum": list(ROLE_TARGETS if name == "roles" else MESSAGE_PROPERTIES)}
        value = option["additionalProperties"]
        option["additionalProperties"] = {"anyOf": [value, {"type": "null"}]}
    kind = option.get("type")
    if kind in ("integer", "number"):
        return [option, {"type": "string", "pattern": NUMBER}]
    if kind == "boolean":
        return [option, {"type": "string", "pattern": f"^({_WORDS})$"}]
    return [option]
