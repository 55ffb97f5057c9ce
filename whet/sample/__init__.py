"""The sample task: a small company's database, and questions about it with their SQL."""

from __future__ import annotations

from whet.sample.rows import Row, database_path, heldout_rows, train_rows

__all__ = ["Row", "database_path", "heldout_rows", "train_rows"]
