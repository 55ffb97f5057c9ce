"""Conversations: several rows in one, and rows of any chat dialect in one form."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]

from whet.config.nearest import refuse_arguments
from whet.data.tables import as_dataset, column_names, column_values
from whet.errors import DataError

CONVERSATIONS = "conversations"
MESSAGE_COLUMNS = (CONVERSATIONS, "messages", "conversation")
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
SYSTEM_NAMES = ("system",)
USER_NAMES = ("user", "human", "input")
ASSISTANT_NAMES = ("gpt", "assistant", "output")
TOOL_NAMES = ("tool", "observation", "function_response", "ipython")
CALL_NAMES = ("function_call", "tool_call")  # a tool call is what the assistant says


def extend(rows: int, turns: int, seed: int) -> list[tuple[int, ...]]:
    """Which rows make up each conversation: ``turns`` different ones in each, every row in ``turns`` conversations.

    Conversation i begins with row i. The others are found by going different distances along one shuffled circle of
    all rows: so no row meets itself, and each is used equally often.

    Raises:
        DataError: no positive number of turns, or fewer rows than turns.
    """
    if isinstance(turns, bool) or not isinstance(turns, int) or turns < 1:
        raise DataError(f"conversation_extension={turns!r}", "a number of turns, 1 or more")
    if rows < turns:
        raise DataError(
            f"conversation_extension={turns} needs {turns} different rows, and there are {rows}",
            fix="give more rows, or a smaller conversation_extension",
        )
    chance = random.Random(seed)
    circle = chance.sample(range(rows), rows)
    distances = [0, *chance.sample(range(1, rows), turns - 1)]
    place = {row: i for i, row in enumerate(circle)}
    return [tuple(circle[(place[row] + distance) % rows] for distance in distances) for row in range(rows)]


def standardize_sharegpt(
    dataset: Any,
    aliases_for_system: Sequence[str] = SYSTEM_NAMES,
    aliases_for_user: Sequence[str] = USER_NAMES,
    aliases_for_assistant: Sequence[str] = ASSISTANT_NAMES,
    **unknown: Any,
) -> datasets.Dataset:
    """Rows of any chat dialect with ``{"role", "content"}`` messages in the column ``conversations``.

    Reads ShareGPT (``from``, ``value``) and OpenAI (``role``, ``content``) messages of a column ``conversations``,
    ``messages`` or ``conversation``. Other keys of a message (weight, train, name, tool_calls) and other columns are
    kept. Results of tools ("tool", "observation", "function_response") get the role tool; a "function_call" is the
    assistant's.

    Args:
        dataset: a data set, a pandas frame or a list of rows.
        aliases_for_system, aliases_for_user, aliases_for_assistant: names of these roles in the rows.

    Raises:
        DataError: no column of messages, or a message without role or content, or of an unknown role; with its row.
        WhetError: an argument of an unknown name.
    """
    refuse_arguments(unknown, standardize_sharegpt)
    names = column_names(dataset)
    column = next((name for name in MESSAGE_COLUMNS if name in names), None)
    if column is None:
        raise DataError(
            f"no column holds conversations: {', '.join(names)}", "one of " + ", ".join(MESSAGE_COLUMNS),
            "use to_sharegpt first",
        )  # fmt: skip
    roles = role_names(aliases_for_system, aliases_for_user, aliases_for_assistant)
    conversations = [
        standard_messages(messages, roles, f"row {number}")
        for number, messages in enumerate(column_values(dataset, column), 1)
    ]
    others = as_dataset(dataset, without=column)
    return with_column(others, CONVERSATIONS, _without_empty_keys(conversations))


def role_names(system: Iterable[str], user: Iterable[str], assistant: Iterable[str]) -> dict[str, str]:
    """Name in the rows -> role. What the caller names wins over what is known anyway."""
    known = dict.fromkeys(TOOL_NAMES, "tool") | dict.fromkeys(CALL_NAMES, "assistant")
    known |= {role: role for role in ("system", "user", "assistant")}
    for role, aliases in (("system", system), ("user", user), ("assistant", assistant)):
        known |= dict.fromkeys([aliases] if isinstance(aliases, str) else aliases, role)
    return known


def standard_messages(messages: Any, roles: Mapping[str, str], where: str) -> list[dict[str, Any]]:
    """One conversation as ``{"role", "content", ...}`` messages.

    Raises:
        DataError: it is no list of messages, or a message lacks role or content, or its role is unknown.
    """
    if not isinstance(messages, list | tuple) or not all(isinstance(message, Mapping) for message in messages):
        raise DataError(f"{where}: no list of messages", '[{"role": "user", "content": "..."}, ...]')
    return [_standard(message, roles, f"{where}, message {i}") for i, message in enumerate(messages, 1)]


def with_column(others: datasets.Dataset, name: str, values: list[Any]) -> datasets.Dataset:
    """``others`` with one more column, or that column alone if there are no others.

    Raises:
        DataError: the values are of several types.
    """
    try:
        alone = datasets.Dataset.from_dict({name: values})
    except (pa.ArrowException, TypeError) as error:
        raise DataError(
            f"the column {name} holds values of several types: {error}", "one type in each place"
        ) from error
    if not others.column_names:
        return alone
    if name in others.column_names:
        others = others.remove_columns([name])
    return datasets.concatenate_datasets([others, alone], axis=1) if others.column_names else alone


def _standard(message: Mapping[str, Any], roles: Mapping[str, str], where: str) -> dict[str, Any]:
    role_key = _key(message, ROLE_KEYS, "a role", where)
    content_key = _key(message, CONTENT_KEYS, "a content", where)
    name = message[role_key]
    if name not in roles:
        raise DataError(
            f'{where}: the role "{name}" is not known', "one of " + ", ".join(sorted(roles)),
            f'aliases_for_user=["{name}"], aliases_for_assistant or aliases_for_system, as it is meant',
        )  # fmt: skip
    content = message[content_key]
    others = {key: value for key, value in message.items() if key not in (role_key, content_key)}
    return {"role": roles[name], "content": "" if content is None else content, **others}


def _key(message: Mapping[str, Any], keys: Sequence[str], what: str, where: str) -> str:
    found = [key for key in keys if key in message]
    if not found:
        raise DataError(f"{where} has no key for {what}: it has {', '.join(map(str, message))}", " or ".join(keys))
    return next((key for key in found if message[key] is not None), found[0])


def _without_empty_keys(conversations: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Leave out keys that hold nothing anywhere: Arrow gives every message the keys of all."""
    used = {
        key for messages in conversations for message in messages for key, value in message.items() if value is not None
    }
    return [[{key: value for key, value in m.items() if key in used} for m in messages] for messages in conversations]
