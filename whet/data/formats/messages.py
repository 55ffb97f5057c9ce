"""The messages of a conversation, whatever their keys and roles are called, in the one form of a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from whet.data.formats.cells import cell, is_missing
from whet.data.formats.content import content_text, flag
from whet.data.formats.roles import CALL, role_names, roles_of
from whet.data.formats.spec import FormatSpec
from whet.data.formats.tools import calls_in_text, tool_calls, without_gaps
from whet.errors import DataError

Message = dict[str, Any]

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
TRAIN_KEYS = ("train", "training")
PROPERTIES = ("reasoning_content", "tool_calls", "tool_call_id", "name", "train", "weight")


class MessageReader:
    """Reads the messages of rows as ``spec`` says; made once for a data set.

    Raises:
        DataError: a role in ``spec`` that is not there.
    """

    def __init__(self, spec: FormatSpec) -> None:
        self._roles = role_names(spec.roles)
        self._train: frozenset[str] | None = None
        if spec.roles_to_train is not None:
            self._train = roles_of(spec.roles_to_train, self._roles, "roles_to_train")
        self._role_keys = (spec.field_role,) if spec.field_role else ROLE_KEYS
        self._content_keys = (spec.field_content,) if spec.field_content else CONTENT_KEYS
        self._properties = _property_keys(spec)
        self._drop_system = spec.drop_system_message

    def read(self, value: Any) -> list[Message]:
        """A conversation: a list of messages, or JSON text of one.

        Raises:
            DataError: no messages, an unknown role, content that is no text.
        """
        roles, called = self._roles, False
        result: list[Message] = []
        given: list[Any] = value if isinstance(value, list) else _listed(value)
        role_key, content_key = self._likely_keys(given)
        for message in given:
            if message.__class__ is not dict and not isinstance(message, Mapping):
                raise _no_messages()
            name = message.get(role_key)
            role = roles.get(name) if name.__class__ is str else None
            if role is None:
                role = self._slow_role(message)
            content = message.get(content_key)
            if content.__class__ is not str:
                content = self._slow_content(message, role)
            made: Message = {"role": role, "content": content}
            if role is CALL:
                made = _call_turn(content)
            if len(message) > 2:
                self._add_properties(message, made)
            called = called or "tool_calls" in made
            result.append(made)
        if called and _from_arrow(given):
            for made in result:
                without_gaps(made.get("tool_calls", []))
        return self._finish(result)

    def speech(self, value: Any, role: str) -> list[Message]:
        """What one side says: a text, one message or a list of messages; nothing: an empty list."""
        if isinstance(value, Mapping):
            if not any(value.get(key) is not None for key in self._role_keys):
                return self.speech(self._slow_content(value, role), role)
            return self.read([value])
        if isinstance(value, list):
            return self.read(value)
        text = cell(value)
        return self._finish([{"role": role, "content": text}]) if text.strip() else []

    def _finish(self, messages: list[Message]) -> list[Message]:
        if self._drop_system:
            messages = [message for message in messages if message["role"] != "system"]
        if self._train is not None:
            for message in messages:
                trained = message["role"] in self._train
                if trained != (message["role"] == "assistant"):  # else what happens anyway
                    message.setdefault("train", trained)
        return messages

    def _likely_keys(self, messages: list[Any]) -> tuple[str, str]:
        """The keys of the first message; where another message has other keys, they are looked up there."""
        first = messages[0] if messages and isinstance(messages[0], Mapping) else {}
        role = self._role_keys[-1] if first.get(self._role_keys[0]) is None else self._role_keys[0]
        content = self._content_keys[-1] if first.get(self._content_keys[0]) is None else self._content_keys[0]
        return role, content

    def _slow_role(self, message: Mapping[str, Any]) -> str:
        name = self._part(message, self._role_keys, "role")
        role = self._roles.get(name) if isinstance(name, str) else None
        role = role or self._roles.get(str(name).strip().lower())
        if role is None:
            known = ", ".join(self._roles)
            raise DataError(f'the role "{name}" is not known', f"one of {known}", f"roles: {{assistant: [{name}]}}")
        return role

    def _slow_content(self, message: Mapping[str, Any], role: str) -> str:
        """Content under its other name, in parts, or left out beside a tool call or a thought."""
        lacks = not any(key in message for key in self._content_keys)
        if lacks and any(message.get(key) is not None for key in self._properties):
            return ""
        return content_text(self._part_of(message), role)

    def _part_of(self, message: Mapping[str, Any]) -> Any:
        return self._part(message, self._content_keys, "content")

    @staticmethod
    def _part(message: Mapping[str, Any], keys: tuple[str, ...], what: str) -> Any:
        """The first of ``keys`` that is there and not null; null where all that are there are null."""
        for key in keys:
            value = message.get(key)
            if value is not None:
                return value
        if any(key in message for key in keys):
            if what == "role":
                raise DataError("a message has no role: it is null", " or ".join(keys))
            return None
        given = f"a message has no {keys[0] if len(keys) == 1 else what}: it has {', '.join(map(str, message))}"
        raise DataError(given, " or ".join(keys), f"set message_property_mappings: {{{what}: ...}}")

    def _add_properties(self, message: Mapping[str, Any], made: Message) -> None:
        for key, value in message.items():
            if value is None or key not in self._properties or is_missing(value):
                continue
            name = self._properties[key]
            if name == "tool_calls":
                if value not in ("", []):
                    made[name] = tool_calls(value)
            elif name == "weight":
                if made["role"] == "assistant":  # OpenAI's meaning; other roles carry it without effect
                    made.setdefault("train", flag(value, key))
            elif name == "train":
                made[name] = flag(value, key)
            elif value != "":
                made[name] = cell(value)


def _property_keys(spec: FormatSpec) -> dict[str, str]:
    """From a key inside a message to the property that it is."""
    thinking = (spec.field_thinking,) if spec.field_thinking else THINKING_KEYS
    training = (spec.message_field_training,) if spec.message_field_training else TRAIN_KEYS
    keys = dict.fromkeys(thinking, "reasoning_content") | dict.fromkeys(training, "train")
    keys |= {name: name for name in ("tool_calls", "tool_call_id", "name", "weight")} | {"function_call": "tool_calls"}
    for name, key in (spec.properties or {}).items():
        if name not in PROPERTIES:
            raise DataError(f'message_property_mappings names "{name}"', f"role, content, {', '.join(PROPERTIES)}")
        keys = {old: other for old, other in keys.items() if other != name} | {key: name}
    return keys


def _from_arrow(messages: list[Any]) -> bool:
    """Arrow gives every message the keys of all; written by hand, only the assistant's have ``tool_calls``."""
    return len(messages) > 1 and all(message.keys() == messages[0].keys() for message in messages)


def _listed(value: Any) -> list[Any]:
    """A conversation that stands in its cell as JSON text, as in a CSV."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        if isinstance(found, list):
            return found
    raise _no_messages()


def _no_messages() -> DataError:
    return DataError("the conversation is no list of messages", '[{"role": "user", "content": "..."}, ...]')


def _call_turn(content: str) -> Message:
    calls = calls_in_text(content)
    if calls is None:
        return {"role": "assistant", "content": content}
    return {"role": "assistant", "content": "", "tool_calls": calls}
