"""Special-token text in messages, kept apart while a chat template runs.

The template sees a placeholder instead of the quoted token, and the finished text gets the token's text back. So it is
known which special-token text comes from the template and which is data. The placeholders are made of a private-use
character that is nowhere in the messages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whet.text.literal import Span, Specials

PRIVATE_USE = range(0xE100, 0xF8FF)


def free_character(value: Any) -> str:
    """A private-use character that is in none of the texts of ``value``."""
    used = set().union(*texts_of(value))
    return next(chr(code) for code in PRIVATE_USE if chr(code) not in used)


def texts_of(value: Any) -> Iterator[str]:
    """All texts of messages, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)


def hide(messages: Sequence[Mapping[str, Any]], specials: Specials) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """The messages with placeholders for special-token text, and what each placeholder stands for."""
    if not any(specials.inside(text) for text in texts_of(messages)):
        return list(messages), {}
    mark = free_character(messages)
    names: dict[str, str] = {}

    def hidden(value: Any) -> Any:
        if isinstance(value, str):
            return _replaced(value, specials, mark, names)
        if isinstance(value, Mapping):
            return {key: hidden(item) for key, item in value.items()}
        return [hidden(item) for item in value] if isinstance(value, list | tuple) else value

    return [hidden(message) for message in messages], names


def _replaced(text: str, specials: Specials, mark: str, names: dict[str, str]) -> str:
    parts, reached = [], 0
    for start, stop in specials.inside(text):
        name = f"{mark}{specials.texts.index(text[start:stop])}{mark}"
        names[name] = text[start:stop]
        parts += [text[reached:start], name]
        reached = stop
    return "".join([*parts, text[reached:]])


def show(
    text: str, spans: tuple[Span, ...] | None, names: Mapping[str, str]
) -> tuple[str, tuple[Span, ...] | None, tuple[Span, ...]]:
    """Put the special-token text back.

    Returns:
        The text, ``spans`` moved with it, and where the text of special tokens is data.
    """
    if not names:
        return text, spans, ()
    parts: list[str] = []
    literal: list[Span] = []
    places, shifts = [0], [0]  # from a place of the old text on: what is added to it
    reached = size = 0
    for place, name in sorted((place, each) for each in names for place in _places(text, each)):
        parts += [text[reached:place], names[name]]
        size += place - reached + len(names[name])
        literal.append((size - len(names[name]), size))
        reached = place + len(name)
        places.append(reached)
        shifts.append(size - reached)
    parts.append(text[reached:])

    def moved(place: int) -> int:
        return place + shifts[bisect_right(places, place) - 1]

    new = None if spans is None else tuple((moved(a), moved(b)) for a, b in spans)
    return "".join(parts), new, tuple(literal)


def _places(text: str, name: str) -> Iterator[int]:
    at = text.find(name)
    while at >= 0:
        yield at
        at = text.find(name, at + len(name))
