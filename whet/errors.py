"""Everything whet raises on purpose.

    WhetError                      exit code 2
    |-- ConfigError                a key, a value or the file itself
    |-- DataError                  rows, columns, files of examples
    |-- ModelError                 a model folder, a tokenizer, a device that cannot
    |-- TrainingError              a run that cannot start or cannot go on
    |-- OutputError                a folder that is not writable, a disk that is full
    |-- ExportError                a model that cannot be written in the asked form
    |   |-- ProofFailed            exit code 1: written, compared, and not the same model
    |   `-- Unproved               exit code 3: written, but nothing here could compare it
    `-- MissingDependency          a package that is not installed, with the command that adds it

Each message says three things: what was given, what is expected, what to do.
"""

from __future__ import annotations


class WhetError(Exception):
    """Base of whet's errors.

    Args:
        given: what was found, with the offending value and its place.
        expected: what would have been right; empty when ``given`` says it.
        fix: one action that mends it; empty when there is only one thing to do.
    """

    exit_code = 2

    def __init__(self, given: str, expected: str = "", fix: str = "") -> None:
        self.given, self.expected, self.fix = given, expected, fix
        lines = [given]
        if expected:
            lines.append(f"  expected: {expected}")
        if fix:
            lines.append(f"  to do: {fix}")
        super().__init__("\n".join(lines))


class ConfigError(WhetError):
    """A config file that cannot be used.

    Args:
        place: where in a file, as its text and its ``whet.config.yaml_lines.Place``; stands before ``given``.
    """

    def __init__(self, given: str, expected: str = "", fix: str = "", place: object = None) -> None:
        super().__init__(f"{place}: {given}" if place is not None else given, expected, fix)
        self.place, self.problem = place, given


class DataError(WhetError):
    """Examples that cannot be used."""


class ModelError(WhetError):
    """A model, tokenizer or device that cannot be used."""


class TrainingError(WhetError):
    """A run that cannot start or go on."""


class OutputError(WhetError):
    """A place that cannot be written to."""


class ExportError(WhetError):
    """A model that cannot be written in the asked form."""


class ProofFailed(ExportError):
    """The file was written, but it is not the trained model."""

    exit_code = 1


class Unproved(ExportError):
    """The file was written, but could not be compared here."""

    exit_code = 3


class MissingDependency(WhetError):
    """A package that is not installed."""
