"""Config files checked without loading a model: everything that is wrong or unusual, with line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from whet.config.keys import STARTER, RunConfig
from whet.config.load import inspect_config, read_text
from whet.config.problems import Finding
from whet.config.yaml_lines import Place
from whet.errors import ConfigError

_LOCAL = re.compile(r"^(\.{1,2}/|/|~)|\.(jsonl?|csv|tsv|xlsx?|parquet|arrow|txt)(\.(gz|bz2|xz|zst))?$")
_PATTERN = re.compile(r"[*?\[{]|://")


class Checked(NamedTuple):
    """One file and what was found in it, in the order of its lines."""

    path: Path
    findings: list[Finding]

    @property
    def errors(self) -> int:
        """How many findings make the file unusable."""
        return sum(item.level == "error" for item in self.findings)

    def lines(self) -> list[str]:
        """``file:line:column: level: text`` for each finding, as compilers and editors write it."""
        shown = [line for item in self.findings for line in _lines(item)]
        return shown if self.errors else [*shown, f"{self.path}: ok"]


def check_files(paths: Sequence[Path | str]) -> list[Checked]:
    """Check each file; one that cannot be read is a finding like any other."""
    return [Checked(Path(path), _check(Path(path))) for path in paths]


def summary(results: Sequence[Checked]) -> str:
    """One line: files, errors, warnings."""
    warnings = sum(item.level == "warning" for result in results for item in result.findings)
    errors = sum(result.errors for result in results)
    counts = [(len(results), "file"), (errors, "error"), (warnings, "warning")]
    return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)


def _check(path: Path) -> list[Finding]:
    try:
        config, findings = inspect_config(read_text(path), name=str(path))
    except ConfigError as error:
        place = error.place if isinstance(error.place, Place) else Place(str(path))
        given = error.problem.removeprefix(f"{path}: ")
        return [Finding("error", place, given, error.expected, error.fix)]
    if config is not None:
        config._source = path
        findings += _missing_files(config)
    return sorted(findings, key=lambda item: (item.place.line, item.place.column))


def _missing_files(config: RunConfig) -> Iterator[Finding]:
    """Paths that look like files or folders, and lead to none from here or from the YAML's folder."""
    named = [("base_model", config.base_model)] if config.base_model != STARTER else []
    for key, entries in (("datasets", config.datasets), ("test_datasets", config.test_datasets or [])):
        named += [(f"{key}.{index}.path", entry.path) for index, entry in enumerate(entries)]
    for key, value in named:
        local = _LOCAL.search(value) and not _PATTERN.search(value)
        if local and not config.resolve_path(value).exists():
            text = f"{key}: {value} is not here, nor beside the file; training would stop"
            yield Finding("warning", Place(str(config.source)), text, key=key)


def _lines(item: Finding) -> Iterator[str]:
    yield f"{item.place.exact}: {item.level}: {item.given}"
    if item.expected:
        yield f"  expected: {item.expected}"
    if item.fix:
        yield f"  to do: {item.fix}"
