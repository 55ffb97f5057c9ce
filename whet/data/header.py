"""Names of columns from the header of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.console import notice


def header_names(cells: Sequence[Any], place: str) -> list[str]:
    """The header's names, exactly as they stand there.

    Nameless columns and repeated names are told apart as pandas does (``Unnamed: 0``, ``a.1``); the latter is said.
    """
    texts = ["" if cell is None else str(cell) for cell in cells]
    names: list[str] = []
    for index, text in enumerate(texts):
        base = name = text if text.strip() else f"Unnamed: {index}"
        count = 0
        while name in names or (count and name in texts):
            count += 1
            name = f"{base}.{count}"
        if count and text.strip():
            notice(f'{place}: the header has the column "{base}" more than once; this one is called "{name}"')
        names.append(name)
    return names
