"""Axolotl's keys taken out of a document: read as others, noted, or refused; what is left are whet's own keys."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from pydantic import BaseModel

from whet.config import known
from whet.config.dataset_keys import DatasetConfig, DatasetType
from whet.config.keys import RunConfig, SpecialTokens
from whet.config.known import Refusal
from whet.config.problems import Finding, shown, unknown
from whet.config.yaml_lines import Document, Location

CLOSE = 0.85  # of two names, by difflib: two letters swapped among seven


class Level(NamedTuple):
    """The tables for one depth of a config, and the model whose keys are whet's own there."""

    model: type[BaseModel]
    refused: dict[str, Refusal]
    no_effect: dict[str, str]
    mapped: dict[str, known.Mapped]
    values: dict[str, dict[Any, str]]


RUN = Level(RunConfig, known.NOT_YET, known.NO_EFFECT, known.MAPPED, known.MAPPED_VALUES)
DATASET = Level(DatasetConfig, known.DATASET_NOT_YET, {}, {}, {})
TYPE = Level(DatasetType, known.TYPE_NOT_YET, {}, {}, {})
TOKENS = Level(SpecialTokens, known.TOKENS_NOT_YET, {}, {}, {})


def take_foreign(document: Document) -> Iterator[Finding]:
    """Remove the keys whet has no field for; report those whose value would matter, and note the rest."""
    values = document.values
    yield from _take(document, values, (), RUN)
    yield from _take(document, values.get("special_tokens"), ("special_tokens",), TOKENS)
    for key in ("datasets", "test_datasets"):
        entries = values.get(key)
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            yield from _take(document, entry, (key, index), DATASET)
            kind = entry.get("type") if isinstance(entry, dict) else None
            yield from _take(document, kind, (key, index, "type"), TYPE)


def _take(document: Document, values: Any, at: Location, level: Level) -> Iterator[Finding]:
    if not isinstance(values, dict):
        return
    for key, texts in level.values.items():
        if isinstance(values.get(key), str) and values[key] in texts:
            text = f"{key}: {values[key]} is {texts[values[key]]}"
            yield Finding("note", document.place((*at, key)), text, key=f"mapped: {key}")
    for key in [key for key in values if key not in level.model.model_fields]:
        if key == "plugins" and not at:
            yield from _plugins(document, values.pop(key))
        elif level.mapped.get(key):
            yield from _map(document, key, values.pop(key), level.mapped[key])
        else:
            yield from _take_one(document, (*at, key), values, level)


def _take_one(document: Document, at: Location, values: dict[str, Any], level: Level) -> Iterator[Finding]:
    key = str(at[-1])
    refusal, text = known.find(level.refused, key), known.find(level.no_effect, key)
    if (refusal is None and text is None) or _is_typo(key, level):
        if values[key] is None or refusal is not None or text is not None:  # the others are found with the values
            del values[key]
            yield unknown(at, document)
        return
    value = values.pop(key)
    if known.is_harmless(key, value):
        return
    if refusal is not None:
        yet = " yet" if refusal.later else ""
        given = f'"{key}" is not supported{yet} (given: {shown(value)}): {refusal.reason}'
        yield Finding("error", document.place(at), given, fix=refusal.fix)
    else:
        yield Finding("note", document.place(at), f"{key} has no effect here: {text}", key=f"no effect: {key}")


def _is_typo(key: str, level: Level) -> bool:
    """Whether ``key`` fits a pattern only because it is a slip in another key: rl_beat fits rl_*, and means rl_beta."""
    exact = [*level.model.model_fields, *level.refused, *level.no_effect, *level.mapped]
    patterns = [name for name in exact if "*" in name and fnmatchcase(key, name)]
    if key in exact or not patterns:
        return False
    alike = [name for name in exact if "*" not in name and fnmatchcase(name, patterns[0])]
    return bool(difflib.get_close_matches(key, alike, n=1, cutoff=CLOSE))


def _map(document: Document, key: str, value: Any, mapped: known.Mapped) -> Iterator[Finding]:
    """Set the keys that ``key`` stands for; one that is given as well, and differs, is a contradiction."""
    if known.is_harmless(key, value):
        return
    place = document.place((key,))
    if key == "pretraining_dataset":
        value = _as_datasets(document, value)
    if known.GIVEN not in mapped.sets.values() and value is not True:
        yield Finding("error", place, f"{key} is {shown(value)}", "true or false")
        return
    for other, wanted in mapped.sets.items():
        wanted = value if wanted is known.GIVEN else wanted
        if document.values.get(other) not in (None, wanted):
            yield Finding("error", place, f"{key} and {other} are both set", fix=f"keep {other}")
            continue
        document.values[other] = wanted
        document.places.setdefault((other,), place)
    yield Finding("note", place, f"{key} is {mapped.text}", key=f"mapped: {key}")


def _as_datasets(document: Document, value: Any) -> list[Any]:
    """The entries of ``pretraining_dataset`` (a path, a mapping or a list of them) as those of ``datasets``."""
    entries = value if isinstance(value, list) else [value]
    for location, place in list(document.places.items()):
        if location[:1] == ("pretraining_dataset",) and len(location) > 1:
            inner = location[1:] if isinstance(value, list) else (0, *location[1:])
            renamed = ["field" if step == "text_column" else step for step in inner]
            document.places.setdefault(("datasets", *renamed), place)
    found: list[Any] = []
    for entry in entries:
        named = {"path": entry} if isinstance(entry, str) else entry
        if isinstance(named, dict):
            named = {"field" if name == "text_column" else name: item for name, item in named.items()}
            named = {"type": "pretrain", **named}
        found.append(named)
    return found


def _plugins(document: Document, value: Any) -> Iterator[Finding]:
    if known.is_harmless("plugins", value):
        return
    foreign = known.foreign_plugins(value)
    if foreign:
        given = f'the plugin "{foreign[0]}" is not supported yet'
        yield Finding("error", document.place(("plugins",)), given, fix="remove it")
    else:
        text = "plugins has no effect here: what they do is built in"
        yield Finding("note", document.place(("plugins",)), text, key="no effect: plugins")
