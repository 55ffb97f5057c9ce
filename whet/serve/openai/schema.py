"""Which JSON schemas an answer can be held to.

llama.cpp turns a schema into a grammar and leaves out, without a word, the keywords that it has no rule for. A client
that asks for ``multipleOf`` must not get any number: such a schema is refused here, with the place and the keyword.
"""

from __future__ import annotations

import re
from typing import Any

from whet.serve.openai.jobs import Refused

DEEPEST = 64
NOTES = {
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
}
FORMATS = {"date", "time", "date-time", "uuid"}
BY_TYPE: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": set(),
    "boolean": set(),
    "null": set(),
}
ALONE = ("$ref", "anyOf", "oneOf", "const", "enum")
RIVALS = (  # of these only the first is kept
    {"pattern", "format"},
    {"pattern", "minLength"},
    {"pattern", "maxLength"},
    {"format", "minLength"},
    {"format", "maxLength"},
    {"items", "prefixItems"},
    {"prefixItems", "minItems"},
    {"prefixItems", "maxItems"},
    {"minimum", "exclusiveMinimum"},
    {"maximum", "exclusiveMaximum"},
)
# What its reader of patterns knows, less what could write a quotation mark into a JSON string ("." and "[^...]").
PLAIN = r"A-Za-z0-9_ \-:/@,;=#%&!<>~"
PATTERN = re.compile(
    rf"\^(?:[{PLAIN}]|\\[.\[\](){{}}|*+?^$]|\[[{PLAIN}.+*()?$]+\]|\((?!\?[^:])(?:\?:)?|\)|[*+?|]|\{{\d{{1,4}}(?:,\d{{0,4}})?\}})*\$",
    re.ASCII,
)


def check_schema(schema: Any, place: str = "#", depth: int = 0) -> None:
    """Raise where an answer could break the schema.

    Raises:
        Refused: a keyword that cannot be kept, or a schema of the wrong form.
    """
    if depth > DEEPEST:
        raise _refusal(place, f"it is deeper than {DEEPEST} levels")
    if isinstance(schema, bool) and schema:
        return
    if not isinstance(schema, dict):
        raise _refusal(place, "a schema is an object")
    for name in ("$defs", "definitions"):
        _each(schema.get(name, {}), f"{place}/{name}", depth)
    words = schema.keys() - NOTES
    alone = next((word for word in ALONE if word in words), None)
    if alone is not None:
        _check_alone(schema, alone, words, place, depth)
        return
    _check_words(schema, words, place)
    _each(schema.get("properties", {}), f"{place}/properties", depth)
    for word in ("items", "additionalProperties"):
        if word in words and not isinstance(schema[word], bool):
            check_schema(schema[word], f"{place}/{word}", depth + 1)
    _listed(schema.get("prefixItems", []), f"{place}/prefixItems", depth)


def _check_alone(schema: dict[str, Any], alone: str, words: set[str], place: str, depth: int) -> None:
    beside = words - {alone} - ({"type"} if alone in ("const", "enum") else set())
    if beside:
        raise _refusal(place, f"{', '.join(sorted(beside))} beside {alone}")
    if alone in ("anyOf", "oneOf"):
        _listed(schema[alone], f"{place}/{alone}", depth)


def _check_words(schema: dict[str, Any], words: set[str], place: str) -> None:
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    if any(not isinstance(name, str) or name not in BY_TYPE for name in types):
        raise _refusal(place, f"type {schema['type']!r}")
    if not types:  # llama.cpp takes these for an object and an array
        types = [name for name in ("object", "array") if words & BY_TYPE[name]][:1]
    known = {"type"}.union(*(BY_TYPE[name] for name in types))
    unknown = words - known
    if unknown:
        raise _refusal(
            place, f"the keyword {', '.join(sorted(unknown))} of {' or '.join(types) or 'a schema without type'}"
        )
    rivals = next((pair for pair in RIVALS if pair <= words), None)
    if rivals is not None:
        raise _refusal(place, f"{' and '.join(sorted(rivals))} together")
    if "format" in words and schema["format"] not in FORMATS:
        raise _refusal(place, f"format {schema['format']!r} (kept are {', '.join(sorted(FORMATS))})")
    if "pattern" in words:
        _check_pattern(schema["pattern"], place)
    missing = set(schema.get("required", ())) - set(schema.get("properties", {}))
    if missing:
        raise _refusal(place, f"required {', '.join(sorted(map(str, missing)))}, which is not among its properties")


def _check_pattern(pattern: Any, place: str) -> None:
    try:
        known = isinstance(pattern, str) and PATTERN.fullmatch(pattern) and re.compile(pattern)
    except re.error:
        known = False
    if not known:
        raise _refusal(
            place, f"the pattern {pattern!r} (kept are ^...$ of letters, digits, classes, groups, repetitions)"
        )


def _each(schemas: Any, place: str, depth: int) -> None:
    if not isinstance(schemas, dict):
        raise _refusal(place, "it is no object")
    for name, schema in schemas.items():
        check_schema(schema, f"{place}/{name}", depth + 1)


def _listed(schemas: Any, place: str, depth: int) -> None:
    if not isinstance(schemas, list):
        raise _refusal(place, "it is no list")
    for index, schema in enumerate(schemas):
        check_schema(schema, f"{place}/{index}", depth + 1)


def _refusal(place: str, what: str) -> Refused:
    return Refused(
        f"the JSON schema cannot be kept: {what} at {place}", code="invalid_json_schema", param="response_format"
    )
