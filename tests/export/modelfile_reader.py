"""Ollama's Modelfile reader, mirrored from the rules of its parser/parser.go: what Ollama will see."""

from __future__ import annotations

SPACES, LINE_ENDS = " \t", "\r\n"


def unquote(text: str) -> str | None:
    """The value inside, or None while its quotes are still open."""
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text


def read_modelfile(text: str) -> list[tuple[str, str]]:
    """The commands of a Modelfile as (name, value); a PARAMETER has its own name."""
    commands: list[tuple[str, str]] = []
    state, held, name = "nothing", "", ""
    for character in text:
        if state == "nothing":
            if character == "#":
                state = "comment"
            elif character not in SPACES + LINE_ENDS:
                state, held = "name", character
        elif state == "comment":
            state = "nothing" if character in LINE_ENDS else state
        elif state in ("name", "parameter"):
            if character not in SPACES:
                held += character
                continue
            name = held.lower() if state == "name" else held
            state = "parameter" if name == "parameter" and state == "name" else "value"
            held = ""
        elif character in SPACES:
            held += character
        elif character in LINE_ENDS:
            value = unquote(held.strip())
            if value is None:
                held += character
                continue
            commands.append((name, value))
            state, held = "nothing", ""
        elif character.isprintable():
            held += character
    assert state in ("nothing", "comment"), f"open at the end: {state} {held!r}"
    return commands
