"""The part of a split that is asked for: ``train``, ``train[:5000]``, ``train[10%:20%]``, ``train[-100:]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from whet.errors import DataError

_SPLIT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?$")


@dataclass(frozen=True)
class Slice:
    """From ``start`` up to ``stop``, as written: a number of rows (from the end where negative) or a percentage."""

    start: str | None = None
    stop: str | None = None

    def bounds(self, count: Callable[[], int]) -> tuple[int, int | None]:
        """First row (from 0) and the row to stop before; None: to the end.

        Args:
            count: gives the number of all rows; called only where the slice depends on it.
        """
        texts = [text for text in (self.start, self.stop) if text is not None]
        rows = count() if any(text.startswith("-") or text.endswith("%") for text in texts) else None
        first = _position(self.start, rows) or 0
        return first, _position(self.stop, rows)

    def __bool__(self) -> bool:
        return self.start is not None or self.stop is not None


WHOLE = Slice()


def parse_split(split: str) -> tuple[str, Slice]:
    """The name of a split and the slice of it.

    Raises:
        DataError: neither is understood.
    """
    found = _SPLIT.match(split)
    if found is None:
        raise DataError(f'the split "{split}" is not understood', "train, train[:5000] or train[10%:20%]")
    return found.group(1), Slice(found.group(2), found.group(3))


def _position(text: str | None, rows: int | None) -> int | None:
    if text is None:
        return None
    if rows is None:
        return int(text)
    number = round(int(text[:-1]) * rows / 100) if text.endswith("%") else int(text)
    return min(max(number + rows if number < 0 else number, 0), rows)
