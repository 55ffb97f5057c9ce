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

from whet.text.template import Turn, TurnTemplate


def to_go(template: TurnTemplate) -> str:
    """Go text that renders what ``template.render`` renders, without the bos token (llama.cpp adds it)."""
    return (
        literal(template.prefix)
        + _default(template)
        + "{{ range $i, $m := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        + _branches(template)
        + '{{ if and $last (ne .Role "assistant") }}'
        + literal(template.generation_prompt)
        + "{{ end }}{{ end }}"
    )


def _default(template: TurnTemplate) -> str:
    """The default system message, where the first message is not one."""
    if template.system is None or template.default_system is None or template.system_place == "each_turn":
        return ""
    text = literal(template.system.before + template.default_system + template.system.after)
    if not text:
        return ""
    return f'{{{{ if .Messages }}}}{{{{ if ne (index .Messages 0).Role "system" }}}}{text}{{{{ end }}}}{{{{ end }}}}'


def _branches(template: TurnTemplate) -> str:
    """One branch for each role; other roles write nothing."""
    user = _content(template.user)
    text = '{{ if eq .Role "user" }}' + user
    if template.system is not None and template.system_place == "each_turn":
        text = '{{ if eq .Role "user" }}' + _system_again(template, template.system) + user
    elif template.system is not None:
        text += '{{ else if eq .Role "system" }}' + _content(template.system)
    before, after = literal(template.assistant.before), literal(template.assistant.after)
    text += '{{ else if eq .Role "assistant" }}' + before + "{{ .Content }}"
    if after:
        text += "{{ if not $last }}" + after + "{{ end }}"
    return text + "{{ end }}"


def _system_again(template: TurnTemplate, system: Turn) -> str:
    if template.default_system is None:
        return "{{ if $.System }}" + literal(system.before) + "{{ $.System }}" + literal(system.after) + "{{ end }}"
    value = "{{ $.System }}"
    if template.default_system:
        value = "{{ if $.System }}{{ $.System }}{{ else }}" + literal(template.default_system) + "{{ end }}"
    return literal(system.before) + value + literal(system.after)


def _content(turn: Turn) -> str:
    return literal(turn.before) + "{{ .Content }}" + literal(turn.after)


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
