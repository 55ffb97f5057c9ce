"""The single values in the header of a GGUF file (specification: ggml's docs/gguf.md, versions 2 and 3).

Lists (the vocabulary) are passed over without being read, so that a large file answers at once.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from whet.errors import ModelError
from whet.llamacpp import check_gguf

FIRST_KEY = 24  # bytes: magic, version (u32), number of tensors (u64), number of keys (u64)
STRING, LIST = 8, 9  # value types; the others are plain numbers
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_header(path: Path | str) -> dict[str, Any]:
    """Numbers, truth values and texts by key; lists are left out.

    Raises:
        ModelError: no such file, not a GGUF, or one that ends too early.
    """
    file = check_gguf(path)
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _values(data)
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"the header of {file} is damaged", "a complete GGUF file", "export it again") from error


def _values(data: mmap.mmap) -> dict[str, Any]:
    found, place = {}, FIRST_KEY
    for _ in range(struct.unpack_from("<Q", data, FIRST_KEY - 8)[0]):
        key, place = _string(data, place)
        kind, place = _number(data, place, "I")
        if kind == LIST:
            place = _after_list(data, place)
        else:
            found[key], place = _string(data, place) if kind == STRING else _number(data, place, NUMBERS[kind])
    return found


def _number(data: mmap.mmap, place: int, form: str) -> tuple[Any, int]:
    return struct.unpack_from(f"<{form}", data, place)[0], place + struct.calcsize(form)


def _string(data: mmap.mmap, place: int) -> tuple[str, int]:
    length, start = _number(data, place, "Q")
    if start + length > len(data):
        raise struct.error("a text that ends after the file")
    return data[start : start + length].decode("utf-8"), start + length


def _after_list(data: mmap.mmap, place: int) -> int:
    kind, place = _number(data, place, "I")
    count, place = _number(data, place, "Q")
    if kind == STRING:
        for _ in range(count):
            place += 8 + struct.unpack_from("<Q", data, place)[0]
        return place
    if kind == LIST:
        for _ in range(count):
            place = _after_list(data, place)
        return place
    return place + count * struct.calcsize(NUMBERS[kind])
