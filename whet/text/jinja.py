"""A ``TurnTemplate`` as Jinja, for a tokenizer and a GGUF.

Plain expressions on one line, so that block trimming (on in transformers, off elsewhere) changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.text.template import Turn, TurnTemplate

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NO_ROLE = "{{ raise_exception('no place in this template for the role ' + message['role']) }}"
_ONLY_FIRST = "{{ raise_exception('this template has a place for a system message at the start only') }}"
_NO_USER = "{{ raise_exception('this template writes the system text in a user message, and there is none') }}"


def to_jinja(template: TurnTemplate) -> str:
    """Jinja that renders what ``template.render`` renders."""
    write = {"each_turn": _each_turn, "first_user": _first_user}.get(template.system_place, _one_by_one)
    end = f"{{% if add_generation_prompt %}}{printed(template.generation_prompt)}"
    if template.suffix:
        end += f"{{% else %}}{printed(template.suffix)}"
    return printed(template.bos + template.prefix) + write(template) + end + "{% endif %}"


def _one_by_one(template: TurnTemplate) -> str:
    lead, branches = "", []
    if template.system is not None:
        branches.append(("system", _system_turn(template, template.system)))
        if template.default_system is not None:
            default = template.system.before + template.default_system + template.system.after
            absent = "not messages or messages[0]['role'] != 'system'"
            if template.skip_empty_system:
                absent += f" or not {_read(template, 'system', 'messages[0]')}"
            lead = f"{{% if {absent} %}}{printed(default)}{{% endif %}}"
    return lead + _loop([*branches, *_speakers(template)])


def _system_turn(template: TurnTemplate, system: Turn) -> str:
    body = _content(template, system, "system")
    if template.skip_empty_system:
        body = f"{{% if {_read(template, 'system')} %}}{body}{{% endif %}}"
    if template.system_place == "start":
        return f"{{% if loop.first %}}{body}{{% else %}}{_ONLY_FIRST}{{% endif %}}"
    if template.later_system is None:
        return body
    later = _content(template, template.later_system, "system")
    if template.skip_empty_system:
        later = f"{{% if {_read(template, 'system')} %}}{later}{{% endif %}}"
    return f"{{% if loop.first %}}{body}{{% else %}}{later}{{% endif %}}"


def _first_user(template: TurnTemplate) -> str:
    """The system's text waits for the first user message."""
    system = template.system or Turn()
    default = template.default_system if template.system is not None else None
    start = f"{{% set ns = namespace(text={_quote(default or '')}, waits={_bool(default is not None)}, given=false) %}}"
    keep = f"{{% set ns.text = {_read(template, 'system')} %}}{{% set ns.waits = true %}}{{% set ns.given = true %}}"
    if template.skip_empty_system:
        keep = f"{{% if {_read(template, 'system')} %}}{keep}{{% endif %}}"
    keep = f"{{% if loop.first %}}{keep}{{% else %}}{_ONLY_FIRST}{{% endif %}}"
    folded = printed(system.before) + "{{ ns.text }}" + printed(system.after)
    user = (
        printed(template.user.before)
        + f"{{% if ns.waits %}}{folded}{{% set ns.waits = false %}}{{% endif %}}"
        + _content(template, Turn("", template.user.after), "user")
    )
    branches = [("user", user), _speakers(template)[1]]
    if template.system is not None:
        branches.insert(0, ("system", keep))
    return start + _loop(branches) + f"{{% if ns.waits and ns.given %}}{_NO_USER}{{% endif %}}"


def _each_turn(template: TurnTemplate) -> str:
    """All system texts are gathered first, then written in every user turn."""
    system = template.system or Turn()
    given = "message['role'] == 'system'" + (f" and {_read(template, 'system')}" if template.skip_empty_system else "")
    gather = (
        f"{{% set ns = namespace(system={_quote(template.default_system or '')}, count=0) %}}"
        f"{{% for message in messages %}}{{% if {given} %}}"
        f"{{% if ns.count == 0 %}}{{% set ns.system = {_read(template, 'system')} %}}"
        f"{{% else %}}{{% set ns.system = ns.system + '\\n\\n' + {_read(template, 'system')} %}}{{% endif %}}"
        "{% set ns.count = ns.count + 1 %}{% endif %}{% endfor %}"
    )
    written = printed(system.before) + "{{ ns.system }}" + printed(system.after)
    if template.default_system is None:
        written = f"{{% if ns.count > 0 %}}{written}{{% endif %}}"
    user, assistant = _speakers(template)
    branches = [("user", written + user[1]), assistant]
    return gather + _loop([("system", ""), *branches] if template.system is not None else branches)


def _speakers(template: TurnTemplate) -> list[tuple[str, str]]:
    turns = {"user": template.user, "assistant": template.assistant}
    return [(role, _content(template, turn, role)) for role, turn in turns.items()]


def _loop(branches: Sequence[tuple[str, str]]) -> str:
    text = "{% for message in messages %}"
    for i, (role, body) in enumerate(branches):
        text += f"{{% {'elif' if i else 'if'} message['role'] == '{role}' %}}{body}"
    return text + f"{{% else %}}{_NO_ROLE}{{% endif %}}{{% endfor %}}"


def _content(template: TurnTemplate, turn: Turn, role: str) -> str:
    return printed(turn.before) + f"{{{{ {_read(template, role)} }}}}" + printed(turn.after)


def _read(template: TurnTemplate, role: str, message: str = "message") -> str:
    return f"({message}['content'] | trim)" if template.trims(role) else f"{message}['content']"


def printed(text: str) -> str:
    """An expression that writes this text."""
    return f"{{{{ {_quote(text)} }}}}" if text else ""


def _quote(text: str) -> str:
    return "'" + "".join(_ESCAPES.get(character, character) for character in text) + "'"


def _bool(value: bool) -> str:
    return "true" if value else "false"


def own_bos(tokenizer: Any) -> str:
    """The text of the token that the tokenizer puts before every text by itself; "" if it does not."""
    first = tokenizer("a", add_special_tokens=True)["input_ids"][:1]
    bos = tokenizer.bos_token_id
    return str(tokenizer.bos_token) if bos is not None and first == [bos] else ""
