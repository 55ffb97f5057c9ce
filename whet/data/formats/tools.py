"""Tool calls and tool definitions, in the one form that chat templates expect.

A call becomes ``{"type": "function", "function": {"name": ..., "arguments": {...}}}`` with its ``id`` where it has one.
Arguments are always an object: templates write them with ``tojson``, which would quote a text a second time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from whet.data.formats.cells import Row, is_missing
from whet.errors import DataError

Call = dict[str, Any]
Tools = list[dict[str, Any]]


def tool_calls(value: Any) -> list[Call]:
    """The calls of one message: a list, one call, or JSON text of these.

    Raises:
        DataError: not a call, or arguments that are no JSON object.
    """
    if isinstance(value, str):
        value = _parsed(value, "tool_calls")
    return [_call(item) for item in (value if isinstance(value, list) else [value])]


def calls_in_text(text: str) -> list[Call] | None:
    """The calls that a ShareGPT ``function_call`` turn holds as JSON; None where it is other text."""
    try:
        return tool_calls(json.loads(text))
    except (ValueError, DataError):
        return None


def _call(item: Any) -> Call:
    if isinstance(item, str):
        item = _parsed(item, "a tool call")
    if not isinstance(item, Mapping):
        raise DataError("a tool call is no mapping", '{"function": {"name": "...", "arguments": {...}}}')
    function = item.get("function")
    inner: Mapping[str, Any] = function if isinstance(function, Mapping) else item
    name = inner.get("name")
    if not isinstance(name, str) or not name:
        raise DataError(f"a tool call has no name: it has {', '.join(map(str, inner))}", "name and arguments")
    call: Call = {"type": "function", "function": {"name": name, "arguments": _arguments(inner, name)}}
    return {"id": str(item["id"]), **call} if item.get("id") is not None else call


def _arguments(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = call.get("arguments", call.get("parameters"))
    if isinstance(value, str):
        value = _parsed(value, f'the arguments of the call of "{name}"') if value.strip() else {}
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f'the arguments of the call of "{name}" are no object', '{"city": "Rome"}, or its JSON text')
    return dict(value)


def without_gaps(calls: list[Call]) -> None:
    """Remove arguments that are null: Arrow gives every call of a column the arguments of all the others."""
    for call in calls:
        function = call["function"]
        function["arguments"] = _drop_nulls(function["arguments"])


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    return [_drop_nulls(item) for item in value] if isinstance(value, list) else value


def tools_of(column: str) -> Callable[[Row], Tools | None]:
    """What reads the tools of a row; rows without them give None."""

    def read(row: Row) -> Tools | None:
        value = row.get(column)
        if value is None or value == [] or is_missing(value):
            return None
        return _from_text(value) if isinstance(value, str) else _tools(value)

    return read


@lru_cache(maxsize=256)  # rows repeat the same text; readers never change what they get
def _from_text(text: str) -> Tools | None:
    return _tools(_parsed(text, "the tools")) if text.strip() else None


def _tools(value: Any) -> Tools | None:
    items = value if isinstance(value, list) else [value]
    return [_tool(_parsed(item, "a tool") if isinstance(item, str) else item) for item in items] or None


def _tool(item: Any) -> dict[str, Any]:
    """A definition in OpenAI's form; JSON schema has no null but in default and const, so other nulls are Arrow's."""
    if not isinstance(item, Mapping):
        raise DataError("a tool is no mapping", '{"type": "function", "function": {"name": ..., "parameters": ...}}')
    found: dict[str, Any] = _schema(item)
    inner = found.get("function", found)
    if not isinstance(inner, Mapping) or not inner.get("name"):
        raise DataError(f"a tool has no name: it has {', '.join(map(str, item))}", "name, description, parameters")
    return found if "function" in found else {"type": "function", "function": found}


def _schema(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _schema(v) for k, v in value.items() if v is not None or k in ("default", "const")}
    return [_schema(item) for item in value] if isinstance(value, list) else value


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{what}: no JSON ({error}): {text[:60]!r}", "JSON text, or the value itself") from error
