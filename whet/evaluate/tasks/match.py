"""Does the answer say what was expected?"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import deque
from collections.abc import Sequence
from typing import Any

from whet.errors import DataError

_EDGES = " \t\r\n.,;:!?\"'`´“”‘’«»()[]{}。，；：！？、「」『』（）"
_FENCE = re.compile(r"\A\s*```[\w-]*\n(.*?)\n?```\s*\Z", re.DOTALL)


def exact(answer: str, expected: str) -> bool:
    """The same text, white space at both ends aside."""
    return answer.strip() == expected.strip()


def normalised(text: str) -> str:
    """A text without what seldom matters: case, width of characters, white space, punctuation at its ends."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.split()).strip(_EDGES)


def normalised_match(answer: str, expected: str) -> bool:
    """The same text after ``normalised``; two that are nothing but punctuation must be the same exactly."""
    first, second = normalised(answer), normalised(expected)
    return first == second if first or second else exact(answer, expected)


def json_value(text: str) -> Any:
    """The JSON of a text, also inside of a Markdown fence.

    Raises:
        ValueError: it is none.
    """
    fenced = _FENCE.match(text)

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(fenced[1] if fenced else text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("too deep") from error


def is_json(text: str) -> bool:
    """Whether a text is JSON."""
    try:
        json_value(text)
    except ValueError:
        return False
    return True


def same_json(answer: str, expected: str) -> bool:
    """The same JSON value: order of keys, white space and 1 for 1.0 do not matter.

    Raises:
        DataError: the expected text is no JSON.
    """
    try:
        wanted = json_value(expected)
    except ValueError as error:
        raise DataError(f"an expected answer is no JSON: {expected[:200]}", "JSON in every row") from error
    try:
        return bool(_typed(json_value(answer)) == _typed(wanted))
    except ValueError:
        return False


def _typed(value: Any) -> Any:
    """A value in which true is not 1."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    return [_typed(item) for item in value] if isinstance(value, list) else value


def pattern_of(text: str) -> re.Pattern[str]:
    """A regular expression.

    Raises:
        DataError: it is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise DataError(f"--regex {text}: {error}", "a regular expression of Python's re") from error


def regex_match(pattern: re.Pattern[str], answer: str, expected: str | None) -> bool:
    """Whether the pattern is found; with a group, and found in what is expected too, the groups must be the same.

    The last place counts in both: final answers stand at the end.
    """
    found = _last(pattern, answer)
    if not pattern.groups or expected is None:
        return found is not None
    wanted = _last(pattern, expected)
    if wanted is None or found is None:
        return False
    return [part and normalised(part) for part in found.groups()] == [
        part and normalised(part) for part in wanted.groups()
    ]


def labels_of(expected: Sequence[str], most: int = 20, longest: int = 40) -> list[str] | None:
    """The closed set of short answers that the expected ones are from, most frequent first; None where they are not.

    Each must stand twice in the mean: ten rows with nine different answers are no classes.
    """
    counts: dict[str, int] = {}
    shown: dict[str, str] = {}
    for text in expected:
        key = normalised(text) or text.strip()
        counts[key] = counts.get(key, 0) + 1
        shown.setdefault(key, text.strip())
    if not 2 <= len(counts) <= most or len(expected) < 2 * len(counts) or max(map(len, counts)) > longest:
        return None
    return [shown[key] for key in sorted(counts, key=lambda key: -counts[key])]


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return deque(pattern.finditer(text), maxlen=1).pop() if pattern.search(text) else None
