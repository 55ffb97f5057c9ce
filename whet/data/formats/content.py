"""Values inside a message: its content as text, its flags as truth values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whet.data.formats.cells import cell
from whet.data.formats.roles import CALL
from whet.errors import DataError

_FLAGS = {"true": True, "false": False, "1": True, "1.0": True, "0": False, "0.0": False}


def content_text(value: Any, role: str) -> str:
    """Content as text: parts of text are joined, a tool's result that is an object becomes its JSON.

    Raises:
        DataError: images, sound, or other values that are no text.
    """
    if not isinstance(value, list | Mapping):
        return cell(value)
    parts = value if isinstance(value, list) else []
    if parts and all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        return "".join(cell(part.get("text")) for part in parts)
    if role in ("tool", CALL) or not value:
        return cell(value) if value else ""
    raise DataError("a message holds more than text", "text (images and sound are not supported yet)")


def flag(value: Any, key: str) -> bool:
    """A flag of a message.

    Raises:
        DataError: neither true nor false, such as a weight of 0.5.
    """
    found = _FLAGS.get(str(value).strip().lower())
    if found is None:
        raise DataError(f"{key} of a message is {value!r}", "true or false (1 or 0)")
    return found
