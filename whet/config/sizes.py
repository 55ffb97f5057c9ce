"""Sizes of memory as people write them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from whet.config.types import wrong

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Bytes of "16GiB", "16 GB", "800MiB" or "17179869184"; None for what is no size of memory.

    GiB counts in steps of 1024, GB in steps of 1000. Less than a MiB is a forgotten unit.
    """
    found = _SIZE.fullmatch(text.strip())
    size = round(float(found[1]) * UNITS[(found[2] or "").lower()]) if found else 0
    return size if size >= 2**20 else None


def format_size(size: float) -> str:
    """Bytes as ``12.80 GiB`` or ``640 MiB``."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _size(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or parse_size(str(value)) is None:
        raise wrong("a size such as 16GiB")
    return str(value)


Size = Annotated[str, BeforeValidator(_size, json_schema_input_type=str | int)]
