"""A ``TurnTemplate`` as the TEMPLATE of an Ollama Modelfile (Go text/template).

Ollama gives the template ``.Messages`` (neighbours of one role already joined by an empty line) and ``.System`` (all
system messages, joined). If the last message is the assistant's, it is a beginning that the model goes on with: its
turn stays open and no generation prompt follows.

Fixed text stands outside of actions, as it is. What could be misread goes into an action as a Go string: ``{{``, a
brace before an action, double quotes (three of them end a Modelfile's value), and characters that Ollama's parser
drops because they are not printable.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

from whet.errors import ExportError
from whet.text.template import Turn, TurnTemplate

_SYSTEM_FIRST = 'eq (index $.Messages 0).Role "system"'


def to_go(template: TurnTemplate) -> str:
    """Go text that renders what ``template.render`` renders, without the bos token (llama.cpp adds it).

    Raises:
        ExportError: a template that trims contents; Go templates cannot.
    """
    if template.no_go:
        raise ExportError(
            f"this chat template has no Go form: {template.no_go}",
            "a template that writes contents as they are",
            "leave TEMPLATE out of the Modelfile: Ollama then uses the Jinja in the GGUF",
        )
    folds = template.system is not None and template.system_place == "first_user"
    return (
        literal(template.prefix)
        + _default(template)
        + ("{{ $open := true }}" if folds else "")
        + "{{ range $i, $m := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        + _branches(template)
        + '{{ if and $last (ne .Role "assistant") }}'
        + literal(template.generation_prompt)
        + "{{ end }}{{ end }}"
    )


def _default(template: TurnTemplate) -> str:
    """The default system message, where the first message is not one."""
    if template.system is None or template.default_system is None:
        return ""
    text = literal(template.system.before + template.default_system + template.system.after)
    if not text or template.system_place not in ("turn", "start"):
        return ""
    absent = 'ne (index .Messages 0).Role "system"'
    if template.skip_empty_system:
        absent = f"or ({absent}) (not (index .Messages 0).Content)"
    return f"{{{{ if .Messages }}}}{{{{ if {absent} }}}}{text}{{{{ end }}}}{{{{ end }}}}"


def _branches(template: TurnTemplate) -> str:
    """One branch for each role; other roles write nothing."""
    system, user = "", _content(template.user)
    if template.system is not None and template.system_place == "each_turn":
        user = _gathered(template, template.system) + user
    elif template.system is not None and template.system_place == "first_user":
        user = literal(template.user.before) + _folded(template, template.system) + _content(template.user, "")
    elif template.system is not None:
        system = '{{ else if eq .Role "system" }}' + _system_turn(template, template.system)
    answer = literal(template.assistant.before) + "{{ .Content }}"
    after = literal(template.assistant.after)
    if after:
        answer += "{{ if not $last }}" + after + "{{ end }}"
    return '{{ if eq .Role "user" }}' + user + system + '{{ else if eq .Role "assistant" }}' + answer + "{{ end }}"


def _system_turn(template: TurnTemplate, system: Turn) -> str:
    text = _content(system)
    if template.later_system is not None:
        text = "{{ if $i }}" + _content(template.later_system) + "{{ else }}" + text + "{{ end }}"
    return "{{ if .Content }}" + text + "{{ end }}" if template.skip_empty_system else text


def _folded(template: TurnTemplate, system: Turn) -> str:
    """The system's text in the first user turn."""
    return "{{ if $open }}{{ $open = false }}" + _gathered(template, system) + "{{ end }}"


def _gathered(template: TurnTemplate, system: Turn) -> str:
    """All system texts if there are some, else the default one."""
    given = "$.System" if template.skip_empty_system else f"or $.System ({_SYSTEM_FIRST})"
    value = "{{ $.System }}"
    if template.default_system is None:
        return f"{{{{ if {given} }}}}" + literal(system.before) + value + literal(system.after) + "{{ end }}"
    if template.default_system:
        value = f"{{{{ if {given} }}}}{value}{{{{ else }}}}" + literal(template.default_system) + "{{ end }}"
    return literal(system.before) + value + literal(system.after)


def _content(turn: Turn, before: str | None = None) -> str:
    return literal(turn.before if before is None else before) + "{{ .Content }}" + literal(turn.after)


def literal(text: str) -> str:
    """Fixed text, safe in a Go template and in a Modelfile's triple quotes."""
    unsafe = _unsafe(text)
    parts = []
    for quoted, run in groupby(zip(unsafe, text, strict=True), key=itemgetter(0)):
        characters = [character for _, character in run]
        parts.append('{{ "' + "".join(map(_go_escape, characters)) + '" }}' if quoted else "".join(characters))
    return "".join(parts)


def _unsafe(text: str) -> list[bool]:
    """Which characters go into an action. A brace does when a brace, an action or the end of the text comes next."""
    marks, action_next = [False] * len(text), True
    for i in reversed(range(len(text))):
        opens = text[i] == "{" and (action_next or text[i + 1] == "{")
        marks[i] = action_next = opens or text[i] == '"' or not _visible(text[i])
    return marks


def _visible(character: str) -> bool:
    return character.isprintable() or character == "\n"


def _go_escape(character: str) -> str:
    if character == '"':
        return '\\"'
    if _visible(character):
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
