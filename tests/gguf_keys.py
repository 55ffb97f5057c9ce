"""All keys of a GGUF file, lists included, in one quick pass (specification: ggml's docs/gguf.md)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

STRING, LIST = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_keys(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found, place = {}, 24
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        key, place = _value(data, place, STRING)
        (kind,) = struct.unpack_from("<I", data, place)
        found[key], place = _value(data, place + 4, kind)
    return found


def _value(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind == STRING:
        start, (length,) = place + 8, struct.unpack_from("<Q", data, place)
        return data[start : start + length].decode("utf-8"), start + length
    if kind != LIST:
        form = "<" + NUMBERS[kind]
        return struct.unpack_from(form, data, place)[0], place + struct.calcsize(form)
    inner, count = struct.unpack_from("<IQ", data, place)
    place += 12
    if inner != STRING:
        form = f"<{count}{NUMBERS[inner]}"
        return list(struct.unpack_from(form, data, place)), place + struct.calcsize(form)
    items = []
    for _ in range(count):
        item, place = _value(data, place, STRING)
        items.append(item)
    return items, place
