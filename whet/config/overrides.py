"""``--set key=value``: reaches into mappings and lists, values are read as YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.config.yaml_lines import Document, Location, Place, read_yaml
from whet.errors import ConfigError

SHAPE = "--set key=value, such as --set learning_rate=1e-4 or --set datasets.0.path=rows.jsonl"


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Set each ``a.b=c`` in ``document``; later ones win. A number in the path is a place in a list, counted from 0.

    Raises:
        ConfigError: no ``=``, a value that is no YAML, a path that leads through a plain value or past a list's end.
    """
    for text in overrides:
        location, value = _split(text)
        label = f"--set {text}"
        _put(document.values, location, value.values, label)
        for known in [place for place in document.places if place[: len(location)] == location]:
            del document.places[known]
        document.places.update({(*location, *place): Place(label) for place in value.places})
        document.places[location] = Place(label)


def _split(text: str) -> tuple[Location, Document]:
    name, equals, value = text.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {text}: this has no key and value", SHAPE)
    location = tuple(int(part) if part.isdigit() else part for part in parts)
    try:
        return location, read_yaml(value, "value")
    except ConfigError as error:
        raise ConfigError(
            f"--set {text}: the value is no YAML", "a number, a word, [a, list]", f"quote it: '{name}=\"...\"'"
        ) from error


def _put(values: Any, location: Location, value: Any, label: str) -> None:
    here = values
    for depth, (step, following) in enumerate(zip(location, [*location[1:], None], strict=True)):
        empty: Any = value if following is None else ([] if isinstance(following, int) else {})
        reached = ".".join(str(part) for part in location[:depth])
        if isinstance(here, list) and isinstance(step, int):
            if step > len(here):
                raise ConfigError(f"{label}: {reached} has {len(here)} entries", f"a number from 0 to {len(here)}")
            if step == len(here):
                here.append(empty)
        elif not isinstance(here, dict) or isinstance(step, int):
            kind = "a list, so the next part is a number" if isinstance(here, list) else "not a list or mapping"
            kind = "a mapping, so the next part is a key" if isinstance(here, dict) else kind
            raise ConfigError(f"{label}: {reached or 'the config'} is {kind}", SHAPE)
        if following is None or (isinstance(here, dict) and here.get(step) is None):
            here[step] = empty
        here = here[step]
