"""Look at every row before a model is loaded: counts, lengths, faults, and rows to show.

An ``Audit`` is given one record with its tokens at a time and keeps hashes and counts only (about 30 bytes a row), the
few rows that will be shown, and sketches of the validation rows. The validation rows come first: the training rows are
compared with them as they go past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whet.data.audit_report import AuditReport, Leakage, ShownRow, Side
from whet.data.duplicates import NearDuplicates
from whet.data.findings import findings_of
from whet.data.preview.choose import Chooser
from whet.data.record_parts import parts_of
from whet.data.records import Record
from whet.data.row_check import RowCheck
from whet.data.tally import Tally
from whet.text.encode import Encoded

MATCHES_NAMED = 5  # near duplicates that the report names


class Audit:
    """Feed it rows, then ``finish``.

    Args:
        tokenizer: knows which tokens are special, and turns shown rows into text.
        sequence_len: longest row, in tokens.
        excess: what happens to longer rows: "drop", "truncate" or "error".
        longest: tokens that the model reads at most; None where nobody knows.
        packing: are several rows put into one of ``sequence_len`` tokens?
        stops: texts that end an answer though they are no special tokens.
        show: rows to show, at most.
        seed: of the choice of shown rows.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        sequence_len: int,
        excess: str = "drop",
        packing: bool = True,
        longest: int | None = None,
        stops: Sequence[str] = (),
        show: int = 3,
        seed: int = 0,
    ) -> None:
        self._check = RowCheck(tokenizer, sequence_len, excess, stops)
        self._sequence_len, self._excess, self._packing = sequence_len, excess, packing
        self._train, self._valid = Tally(), Tally()
        self._longest = longest
        self._near = NearDuplicates()
        self._chooser = Chooser(tokenizer, show, seed)

    def add_valid(self, record: Record, *encoded: Encoded) -> None:
        """Take a validation row; all of them come before the first training row."""
        if self._train.rows:
            raise ValueError("validation rows come before training rows")
        self._add(self._valid, record, encoded, 1.0)
        self._near.hold(self._valid.rows, parts_of(record).text)

    def add(self, record: Record, *encoded: Encoded, weight: float = 1.0) -> None:
        """Take a training row.

        Args:
            encoded: the tokens of the record; of a preference those of the chosen and of the rejected text.
            weight: how often the row is seen in an epoch.
        """
        remarks = self._add(self._train, record, encoded, weight)
        self._chooser.offer(self._train.rows, record, encoded, remarks)
        if self._valid.rows:
            self._near.compare(self._train.rows, parts_of(record).text)

    def _add(self, tally: Tally, record: Record, encoded: Sequence[Encoded], weight: float) -> tuple[str, ...]:
        if not encoded:
            raise ValueError("a record without tokens")
        seen = self._check(record, encoded)
        tally.add(seen, parts_of(record), weight)
        return seen.remarks

    def finish(
        self,
        *,
        dropped: Mapping[str, int] | None = None,
        damaged: int = 0,
        valid_dropped: Mapping[str, int] | None = None,
        valid_damaged: int = 0,
        about: Mapping[str, str] | None = None,
    ) -> AuditReport:
        """The report.

        Args:
            dropped, valid_dropped: rows that reading left out, by reason.
            damaged, valid_damaged: lines that could not be read.
            about: names and values of the setting, for the head of the report.
        """
        train = self._side(self._train, dropped or {}, damaged)
        valid = self._side(self._valid, valid_dropped or {}, valid_damaged) if self._valid.rows else None
        leakage = self._leakage() if valid else None
        shown = tuple(self._with_copies(row) for row in self._chooser.rows())
        findings = findings_of(
            train,
            valid,
            leakage,
            sequence_len=self._sequence_len,
            longest=self._longest,
            excess=self._excess,
            packing=self._packing,
        )
        return AuditReport(train, valid, leakage, findings, self._sequence_len, shown, dict(about or {}))

    def _side(self, tally: Tally, dropped: Mapping[str, int], damaged: int) -> Side:
        return tally.side(self._sequence_len if self._packing else None, dropped, damaged)

    def _leakage(self) -> Leakage:
        rows = np.isin(self._valid.row_hashes, self._train.row_hashes)
        prompts = np.isin(self._valid.prompt_hashes, self._train.prompt_hashes) & (self._valid.prompt_hashes != 0)
        known = rows | prompts
        matches = [match for match in self._near.finish() if not known[match.held - 1]]
        named = tuple(sorted(matches, key=lambda match: -match.similarity)[:MATCHES_NAMED])
        return Leakage(int(rows.sum()), int((prompts & ~rows).sum()), len(matches), named, self._near.not_held)

    def _with_copies(self, row: ShownRow) -> ShownRow:
        hashes = self._train.row_hashes
        copies = int((hashes == hashes[row.number - 1]).sum())
        if copies == 1:
            return row
        remark = f"there are {copies:,} rows with exactly these tokens"
        return ShownRow(row.number, row.why, row.parts, row.tokens, row.trained_tokens, (*row.remarks, remark))
