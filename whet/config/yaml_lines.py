"""YAML that remembers where each value stands.

PyYAML's safe loader drops the lines, so the node graph is walked here: the same values come out, with a line
for each. Three mistakes that the loader lets pass are refused: a key given twice, a key that is no text, an
endless alias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from whet.errors import ConfigError

Location = tuple[str | int, ...]  # ("datasets", 0, "path")
MAX_DEPTH = 32
MERGE_TAG = "tag:yaml.org,2002:merge"


class Place(NamedTuple):
    """Where something was given: a line and column (from 1) of a file, or with neither ``--set key=value``."""

    name: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name

    @property
    def exact(self) -> str:
        """With the column: ``config.yml:12:5``."""
        return f"{self}:{self.column}" if self.line else self.name


@dataclass
class Document:
    """Values and, for each location in them, where it was given."""

    values: Any
    places: dict[Location, Place] = field(default_factory=dict)

    def place(self, location: Location) -> Place:
        """Where ``location`` was given; for something missing, where its nearest parent was."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.places:
                return self.places[location[:length]]
        return Place("config")


class _Loader(yaml.SafeLoader):
    """The safe loader without dates: 2024-01-01 stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str, name: str) -> Document:
    """Parse ``text``; ``name`` is the file's name for messages.

    Raises:
        ConfigError: no valid YAML, a key given twice, a key that is no text.
    """
    document = Document(values=None)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document.values = _Walk(loader, name, document.places).value(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, name) from error
    return document


def _syntax_error(error: yaml.YAMLError, text: str, name: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        position = getattr(error, "position", None)
        before = text[:position] if isinstance(position, int) else ""
        place = Place(name, before.count("\n") + 1, len(before) - before.rfind("\n"))
        return ConfigError(f"this is no YAML: {problem}", "plain text in UTF-8", place=place)
    shown = text.splitlines()[mark.line].rstrip() if mark.line < len(text.splitlines()) else ""
    given = f"this is no YAML: {problem}" + (f"\n    {shown}" if shown else "")
    place = Place(name, mark.line + 1, mark.column + 1)
    if "\t" in shown[: len(shown) - len(shown.lstrip())] or "'\\t'" in problem:
        expected, fix = "spaces at the start of a line, never tabs", "replace the tab by spaces"
    else:
        expected, fix = "lines such as  key: value", 'put quotes around a value that holds ": " or " #"'
    return ConfigError(given, expected, fix, place)


@dataclass
class _Walk:
    loader: Any
    name: str
    places: dict[Location, Place]

    def value(self, node: yaml.Node, at: Location) -> Any:
        if len(at) > MAX_DEPTH:
            given = f"nested more than {MAX_DEPTH} levels, or an alias of itself"
            raise ConfigError(given, place=self._where(node))
        self.places.setdefault(at, self._where(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]
        return self.loader.construct_object(node, deep=True)

    def _mapping(self, node: yaml.MappingNode, at: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == MERGE_TAG:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = self._key(key_node, first_lines)
            self.places[(*at, key)] = self._where(key_node)
            result[key] = self.value(value_node, (*at, key))
        for other in merged:  # "<<: *base": keys given here win
            inherited = self.value(other, at)
            result = {**inherited, **result} if isinstance(inherited, dict) else result
        return result

    def _key(self, node: yaml.Node, first_lines: dict[str, int]) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise ConfigError("a key must be a name", place=self._where(node))
        key, line = str(node.value), node.start_mark.line + 1
        if key in first_lines:
            raise ConfigError(
                f'the key "{key}" is given twice, in lines {first_lines[key]} and {line}',
                "each key once",
                "remove one of the two lines",
                self._where(node),
            )
        first_lines[key] = line
        return key

    def _where(self, node: yaml.Node) -> Place:
        return Place(self.name, node.start_mark.line + 1, node.start_mark.column + 1)
