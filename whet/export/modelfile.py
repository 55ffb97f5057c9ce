"""Ollama's Modelfile: which GGUF, which template, when to stop.

Ollama's reader knows no escapes. A value stands bare, in double quotes or in three of them; it ends where a line ends
and the quotes are closed; characters that are not printable are dropped. So a few contents cannot be written; these are
refused by name instead of being changed silently. (Rules read from Ollama's parser/parser.go.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from whet.errors import DataError, ExportError
from whet.export.parameters import Value, check_parameters, parameter_text

HEADER = "# Written by whet."
PROBE_SYSTEM = "whet asks: is this system text kept?"
_CLOSES_EARLY = re.compile(r'"""\s*?[\r\n]')


class Template(Protocol):
    """What a Modelfile needs of a chat template (``whet.text.template.TurnTemplate``)."""

    @property
    def prefix(self) -> str: ...

    @property
    def stops(self) -> tuple[str, ...]: ...

    @property
    def no_go(self) -> str: ...

    def go(self) -> str: ...

    def jinja(self) -> str: ...

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False) -> str: ...


def modelfile(
    gguf_name: str,
    template: Template | None,
    *,
    system: str | None = None,
    num_ctx: int | None = None,
    stops: Sequence[str] | None = None,
    parameters: Mapping[str, Value] | None = None,
    license: str | None = None,
    no_template: str = "",
) -> str:
    """The text of a Modelfile; the same arguments give the same bytes.

    TEMPLATE is written only where a Go template writes what the model was trained with. Elsewhere a comment says why
    there is none; the stops are written all the same.

    Args:
        gguf_name: the file's name, in the folder of the Modelfile.
        template: None writes no TEMPLATE; Ollama then uses the one in the GGUF.
        system: a system message for every conversation.
        num_ctx: context length in tokens; None leaves Ollama's default.
        stops: texts that end an answer; None takes the template's.
        parameters: what else was asked for, such as ``{"temperature": 0}`` for SQL or classification; a ``num_ctx`` in
            it wins, a ``stop`` comes on top of the others. Nothing is written unasked.
        license: the text of a licence.
        no_template: why ``template`` is None, where the GGUF holds a template of its own.

    Raises:
        ExportError: a content that a Modelfile cannot hold, or a system message that the template would drop.
    """
    lines = [HEADER, f"FROM {quote('./' + gguf_name, 'the file name')}"]
    if template is not None and not template.no_go:
        lines.append(f"TEMPLATE {quote(template.go(), 'the template')}")
    elif template is not None or no_template:
        lines += _no_template(template.no_go if template is not None else no_template)
    if system is not None:
        _check_system(template)
        lines.append(f"SYSTEM {quote(system, 'the system message')}")
    if stops is None:
        stops = template.stops if template is not None else ()
    lines += _parameters({} if num_ctx is None else {"num_ctx": num_ctx}, parameters or {}, stops)
    if license is not None:
        lines.append(f"LICENSE {quote(license, 'the licence')}")
    return "\n".join(lines) + "\n"


def quote(text: str, what: str) -> str:
    """``text`` in such a form that Ollama reads back exactly this text.

    Args:
        what: its name in the error message.

    Raises:
        ExportError: Ollama's reader would change the text.
    """
    for character in text:
        if not character.isprintable() and character not in "\n\r\t":
            raise ExportError(
                f"{what} holds the character U+{ord(character):04X}, which Ollama's Modelfile reader drops",
                "printable characters, spaces, tabs and line ends",
                "leave it out",
            )
    if _CLOSES_EARLY.search(text):
        raise ExportError(
            f'{what} has a line that ends in """, which would end the value in a Modelfile',
            'no """ at the end of a line',
            "write it another way",
        )
    if text and not any(character in text for character in '"\n\r\t ') and not text.startswith("#"):
        return text
    return f'"""{text}"""'


def _parameters(known: Mapping[str, Value], asked: Mapping[str, Value], stops: Sequence[str]) -> list[str]:
    """One line for each parameter, numbers first, then the texts that end an answer."""
    numbers = check_parameters({**known, **asked})
    extra = numbers.pop("stop", None)
    ends = dict.fromkeys([*stops, *([] if extra is None else [str(extra)])])
    lines = [f"PARAMETER {name} {parameter_text(value)}" for name, value in numbers.items()]
    return lines + [f"PARAMETER stop {quote(stop, 'a stop text')}" for stop in ends]


def _no_template(reason: str) -> list[str]:
    """Comment lines, each on a line of its own whatever the reason holds."""
    return [
        "# No TEMPLATE: Ollama uses the chat template inside the GGUF.",
        f"# No Go template writes the same text: {' '.join(reason.split())}.",
    ]


def _check_system(template: Template | None) -> None:
    """A template without a place for the system message would drop it without a word."""
    if template is None:
        return
    messages = [{"role": "system", "content": PROBE_SYSTEM}, {"role": "user", "content": "?"}]
    try:
        kept = PROBE_SYSTEM in template.render(messages, add_generation_prompt=True)
    except DataError:
        kept = False
    if not kept:
        raise ExportError(
            "a system message was given, but the model was trained with a template that has no place for one",
            "a template with a system part",
            "leave out the system message, or train with one",
        )
