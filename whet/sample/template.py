"""One kind of question: its SQL and the ways people ask for it."""

from __future__ import annotations

import string
from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """A question with slots such as ``{city}``; ``pools.POOLS`` holds the values of each slot.

    Args:
        name: unique; stored with every row made from it.
        sql: the one canonical query; every slot occurs in it, so equal SQL means equal values.
        phrasings: wordings that training may show.
        unseen: wordings kept for the held-out set.
    """

    name: str
    sql: str
    phrasings: tuple[str, ...]
    unseen: tuple[str, ...] = ()

    def slots(self) -> tuple[str, ...]:
        """The slots of the SQL in order, each once."""
        found = [field for _, field, _, _ in string.Formatter().parse(self.sql) if field]
        return tuple(dict.fromkeys(found))
