r"""The merged_prompt mini-language: one text out of several columns.

    {column}        the value of a column, by its exact name (dots and spaces are fine)
    [[ ... ]]       an optional part: left out when any column in it is missing; parts may stand in parts
    {{  }}          a literal brace: ``{{"city": "{city}"}}``
    \[[  \]]        literal double brackets; ``\\[[`` is one backslash before an optional part

An optional part without a column of its own shows when a part in it shows. White space: a part that is left out takes
the white space on its left with it, at the start that on its right. If the part brought white space at its own end
("The [[old {x} ]]man"), the white space on its left stays, so that no words are joined. Only white space of the
prompt is ever taken, never that of a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from whet.config.nearest import nearest
from whet.text.caret import fault

_SPECIAL = "{}[]\\"


@dataclass(frozen=True)
class Column:
    """The value of a column."""

    name: str


@dataclass(frozen=True)
class Part:
    """An optional part. ``source`` is its text in the prompt, without the brackets."""

    nodes: tuple[str | Column | Part, ...]
    source: str

    @property
    def columns(self) -> list[str]:
        """The columns that decide whether it shows: its own, not those of parts in it."""
        return [node.name for node in self.nodes if isinstance(node, Column)]

    @property
    def parts(self) -> list[Part]:
        return [node for node in self.nodes if isinstance(node, Part)]

    def shows(self, values: Mapping[str, str | None]) -> bool:
        if self.columns:
            return all(values[name] is not None for name in self.columns)
        return any(part.shows(values) for part in self.parts)


@dataclass
class Counts:
    """What was missing. ``left_out``: rows for each optional part; ``blank``: rows for each column outside of one."""

    left_out: Counter[str] = field(default_factory=Counter)
    blank: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class MergedPrompt:
    """A parsed prompt."""

    nodes: tuple[str | Column | Part, ...]
    columns: tuple[str, ...]

    def render(self, values: Mapping[str, str | None], counts: Counts | None = None) -> str:
        """The text of one row.

        Args:
            values: the text of each column of ``columns``; None is missing.
            counts: what was missing is added to it.
        """
        counts = Counts() if counts is None else counts
        page = _Page()
        _write(self.nodes, values, page, counts)
        return page.finish()


def parse_prompt(text: str, columns: Sequence[str]) -> MergedPrompt:
    """Parse ``text``, whose columns must be among ``columns``.

    Raises:
        DataError: a bracket or brace without its other half, an unknown column, an optional part without a column;
            the message shows the line with a caret at the fault.
    """
    named: list[str] = []
    open_parts: list[tuple[int, list[str | Column | Part]]] = [(0, [])]
    for kind, value, at in _tokens(text):
        nodes = open_parts[-1][1]
        if kind == "text":
            _add_text(nodes, value)
        elif kind == "column":
            _check_column(text, value, at, columns)
            named.append(value)
            nodes.append(Column(value))
        elif kind == "open":
            open_parts.append((at, []))
        elif len(open_parts) == 1:
            raise fault(text, at, "]] closes nothing", "[[ before it", r"write \]] for literal brackets")
        else:
            start, nodes = open_parts.pop()
            open_parts[-1][1].append(_close(text, start, at, nodes))
    if len(open_parts) > 1:
        raise fault(text, open_parts[-1][0], "[[ is never closed", "]] after it", r"write \[[ for literal brackets")
    return MergedPrompt(tuple(open_parts[0][1]), tuple(dict.fromkeys(named)))


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, value, place): text, column, open, close."""
    at = 0
    while at < len(text):
        kind, value, size = _token(text, at)
        yield kind, value, at
        at += size


def _token(text: str, at: int) -> tuple[str, str, int]:
    """The token at this place: kind, value, and how many characters it takes."""
    two, character = text[at : at + 2], text[at]
    if character == "\\":
        return _escape(text, at)
    if two in ("{{", "}}"):
        return "text", character, 2
    if two == "[[":
        return "open", "", 2
    if two == "]]":
        run = len(text) - at - len(text[at:].lstrip("]"))
        return ("text", "]", 1) if run % 2 else ("close", "", 2)  # "[[list[{i}]]]": the odd one is the list's
    if character == "{":
        name = _name(text, at)
        return "column", name, len(name) + 2
    if character == "}":
        raise fault(text, at, "} without {", "{column}", "write }} for a literal brace")
    end = next((i for i in range(at + 1, len(text)) if text[i] in _SPECIAL), len(text))
    return "text", text[at:end], end - at


def _escape(text: str, at: int) -> tuple[str, str, int]:
    if text.startswith(("\\[[", "\\]]"), at):
        return "text", text[at + 1 : at + 3], 3
    if text.startswith(("\\\\[[", "\\\\]]"), at):
        return "text", "\\", 2
    return "text", "\\", 1


def _name(text: str, at: int) -> str:
    end = text.find("}", at)
    again = text.find("{", at + 1)
    if end < 0 or 0 <= again < end:
        raise fault(text, at, "{ without }", "{column}", "write {{ for a literal brace")
    return text[at + 1 : end]


def _check_column(text: str, name: str, at: int, columns: Sequence[str]) -> None:
    if name in columns:
        return
    near = nearest(name, columns) if not set(name) & set("\"':,\n") else None  # with these it is JSON, no column
    hint = f"did you mean {{{near}}}? " if near is not None else ""
    raise fault(
        text,
        at,
        f'there is no column "{name}"',
        "one of " + ", ".join(columns),
        hint + "For literal braces write {{ and }}",
    )


def _close(text: str, start: int, end: int, nodes: list[str | Column | Part]) -> Part:
    part = Part(tuple(nodes), text[start + 2 : end])
    if not part.columns and not part.parts:
        raise fault(
            text, start, "an optional part without a column", "[[ ... {column} ... ]]",
            r"write \[[ and \]] for literal brackets",
        )  # fmt: skip
    return part


def _add_text(nodes: list[str | Column | Part], text: str) -> None:
    if nodes and isinstance(nodes[-1], str):
        nodes[-1] += text
    else:
        nodes.append(text)


def _write(nodes: Sequence[str | Column | Part], values: Mapping[str, str | None], page: _Page, counts: Counts) -> None:
    for node in nodes:
        if isinstance(node, str):
            page.text(node)
        elif isinstance(node, Column):
            value = values[node.name]
            if value is None:
                counts.blank[node.name] += 1
            else:
                page.value(value)
        elif node.shows(values):
            _write(node.nodes, values, page, counts)
        else:
            counts.left_out[node.source] += 1
            page.leave_out(isinstance(node.nodes[-1], str) and node.nodes[-1][-1].isspace())


class _Page:
    """The text so far. ``_loose`` counts the characters at its end that are white space of the prompt itself."""

    def __init__(self) -> None:
        self._done = ""
        self._loose = 0
        self._at_start = False  # a part was left out and nothing stands before it: white space to come is skipped
        self._spaced = False  # the part left out ended in white space of its own

    def text(self, text: str) -> None:
        """Text of the prompt."""
        if self._at_start:
            text = text.lstrip()
        if not text:
            return
        if self._spaced and text[0].isspace():
            self._take_left()
        self._at_start = self._spaced = False
        self._done += text
        spaces = len(text) - len(text.rstrip())
        self._loose = spaces if spaces < len(text) else self._loose + spaces

    def value(self, text: str) -> None:
        """The value of a column."""
        self._at_start = self._spaced = False
        self._done += text
        self._loose = 0

    def leave_out(self, ended_in_space: bool) -> None:
        """A part that is not written."""
        if ended_in_space and self._loose < len(self._done):
            self._spaced = True
            return
        self._take_left()
        self._at_start = not self._done

    def finish(self) -> str:
        if self._spaced:
            self._take_left()
        return self._done

    def _take_left(self) -> None:
        self._done = self._done[: len(self._done) - self._loose]
        self._loose = 0
