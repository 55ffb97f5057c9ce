"""What an audit of the data found, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from whet.data.duplicates import Match
from whet.data.preview.pieces import Piece
from whet.errors import DataError

Level = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """Something to know before training. An error: training as configured would be refused or useless."""

    level: Level
    what: str
    meaning: str
    to_do: str


@dataclass(frozen=True)
class Lengths:
    """Tokens of each row that was read, before any cut.

    Args:
        quantiles: "min", "5%", "median", "95%", "max" to tokens.
        edges: borders of the histogram's bins, one more than ``counts``; bin i is ``edges[i] <= tokens < edges[i+1]``.
        open_end: the last bin holds everything from its lower edge up.
    """

    quantiles: Mapping[str, int]
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    open_end: bool


@dataclass(frozen=True)
class Classes:
    """Answers that look like names of classes: few, short, repeated. Most frequent first."""

    counts: Mapping[str, int]

    @property
    def majority(self) -> float:
        """Share of the most frequent answer: the accuracy of always giving that one."""
        return max(self.counts.values()) / sum(self.counts.values())


@dataclass(frozen=True)
class Side:
    """The figures of the training or the validation rows.

    Args:
        rows: records that were read; rows that the reading left out are in ``dropped`` only.
        kept: records that training uses.
        tokens, trained_tokens: of the kept records, as training sees them (long rows cut).
        longer: records longer than sequence_len. truncated: those of them that are cut and kept.
        dropped: rows by reason, from reading and from the rules about length and labels.
        damaged: lines of files that could not be read and were skipped.
        duplicates: records whose tokens are those of an earlier record.
        conflicting: records whose prompt an earlier record has, with another answer.
        empty_answers: records with an answer of white space only.
        unfinished: records with an answer that does not end in a special token or terminator.
        literal: records whose contents hold the text of a special token, encoded as plain text.
        alike: preference records whose two answers are the same.
        multiplier: tokens seen in an epoch / tokens of the kept rows; 1 without weights.
        fill: tokens / (packed rows x sequence_len); None where rows are not packed.
    """

    rows: int
    kept: int
    tokens: int
    trained_tokens: int
    lengths: Lengths
    longer: int
    truncated: int
    dropped: Mapping[str, int]
    damaged: int
    duplicates: int
    conflicting: int
    empty_answers: int
    unfinished: int
    literal: int
    alike: int
    classes: Classes | None
    multiplier: float
    packed_rows: int | None
    fill: float | None

    @property
    def trained_share(self) -> float:
        """Trained tokens / tokens, 0 to 1."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class Leakage:
    """Validation rows that training has seen.

    Args:
        same: the same tokens. same_prompt: the same prompt with another answer. near: nearly the same text, neither
            of the two before; ``matches`` names some (validation row, training row, similarity).
        not_compared: validation rows beyond what is held in memory, looked at for the first two kinds only.
    """

    same: int
    same_prompt: int
    near: int
    matches: tuple[Match, ...] = ()
    not_compared: int = 0


@dataclass(frozen=True)
class ShownPart:
    """One text of a shown row; ``title`` is "" or "chosen", "rejected" and the like.

    ``hidden``: tokens at its end that are not shown.
    """

    title: str
    pieces: tuple[Piece, ...]
    hidden: int = 0


@dataclass(frozen=True)
class ShownRow:
    """A row to look at: its number among the training records from 1, why it is shown, and what is special about it."""

    number: int
    why: str
    parts: tuple[ShownPart, ...]
    tokens: int
    trained_tokens: int
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """Everything that ``whet preview`` says.

    Args:
        about: names and values of the setting: config, model, template, sources.
    """

    train: Side
    valid: Side | None
    leakage: Leakage | None
    findings: tuple[Finding, ...]
    sequence_len: int
    shown: tuple[ShownRow, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that refuse training."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def check(self) -> None:
        """Refuse data that cannot be trained on.

        Raises:
            DataError: the first finding of the level error.
        """
        for finding in self.errors:
            raise DataError(f"{finding.what}: {finding.meaning}", fix=finding.to_do)

    def print(self) -> None:
        """Show everything on stdout: in colour on a terminal, with ``[[`` ``]]`` around trained text elsewhere."""
        from whet.data.preview.terminal import print_report

        print_report(self)

    def write_html(self, path: Path | str) -> None:
        """Write everything as one HTML file that loads nothing.

        Raises:
            OutputError: the place cannot be written to.
        """
        from whet.data.preview.page import write_page

        write_page(path, self)
