"""Names of roles in the rows, and the four roles of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whet.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
CALL = "function_call"  # ShareGPT's turn that is a tool call; it becomes the assistant's
NAMES: dict[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "ipython": "tool",
    CALL: CALL,
}


def role_names(own: Mapping[str, Sequence[str]] | None) -> dict[str, str]:
    """From a name in the rows to a role; ``own`` is ``{"assistant": ["bot", "model"]}``, added to the usual names.

    Raises:
        DataError: ``own`` maps to a role that is not there.
    """
    names = dict(NAMES)
    for target, aliases in (own or {}).items():
        role = NAMES.get(target)
        if role is None:
            raise DataError(f'roles names the role "{target}"', f"one of {', '.join(ROLES)}")
        names |= dict.fromkeys([aliases] if isinstance(aliases, str) else aliases, role)
    return names


def roles_of(wanted: Sequence[str], names: Mapping[str, str], key: str) -> frozenset[str]:
    """The roles that ``wanted`` names, by their own names or those in the rows.

    Raises:
        DataError: an unknown role.
    """
    for name in wanted:
        if name not in names:
            raise DataError(f'{key} names the role "{name}"', f"some of {', '.join(ROLES)}")
    return frozenset("assistant" if names[name] == CALL else names[name] for name in wanted)
