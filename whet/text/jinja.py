"""Between a ``TurnTemplate`` and Jinja, in both directions.

Out: plain expressions on one line, so that block trimming (on in transformers, off elsewhere) changes nothing.
In: the template is run on messages with marker words, the text between the markers gives the pieces, and the result
counts only if it renders a set of probe conversations exactly as the Jinja does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2.exceptions import TemplateError

from whet.text.template import Turn, TurnTemplate

Messages = Sequence[Mapping[str, str]]

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_NO_ROLE = "{{ raise_exception('no place in this template for the role ' + message['role']) }}"


def to_jinja(template: TurnTemplate) -> str:
    """Jinja that renders what ``template.render`` renders."""
    turns = _each_turn(template) if template.system_place == "each_turn" else _one_by_one(template)
    end = f"{{% if add_generation_prompt %}}{_print(template.generation_prompt)}{{% endif %}}"
    return _print(template.bos + template.prefix) + turns + end


def _one_by_one(template: TurnTemplate) -> str:
    lead, branches = "", []
    if template.system is not None:
        branches.append(("system", _content(template.system)))
        if template.default_system is not None:
            default = template.system.before + template.default_system + template.system.after
            lead = f"{{% if not messages or messages[0]['role'] != 'system' %}}{_print(default)}{{% endif %}}"
    branches += [("user", _content(template.user)), ("assistant", _content(template.assistant))]
    return lead + _loop(branches)


def _each_turn(template: TurnTemplate) -> str:
    """All system texts are gathered first, then written in every user turn."""
    system = template.system or Turn()
    gather = (
        f"{{% set ns = namespace(system={_quote(template.default_system or '')}, count=0) %}}"
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{% if ns.count == 0 %}{% set ns.system = message['content'] %}"
        "{% else %}{% set ns.system = ns.system + '\\n\\n' + message['content'] %}{% endif %}"
        "{% set ns.count = ns.count + 1 %}{% endif %}{% endfor %}"
    )
    written = _print(system.before) + "{{ ns.system }}" + _print(system.after)
    if template.default_system is None:
        written = f"{{% if ns.count > 0 %}}{written}{{% endif %}}"
    branches = [("user", written + _content(template.user)), ("assistant", _content(template.assistant))]
    return gather + _loop([("system", ""), *branches])


def _loop(branches: Sequence[tuple[str, str]]) -> str:
    text = "{% for message in messages %}"
    for i, (role, body) in enumerate(branches):
        text += f"{{% {'elif' if i else 'if'} message['role'] == '{role}' %}}{body}"
    return text + f"{{% else %}}{_NO_ROLE}{{% endif %}}{{% endfor %}}"


def _content(turn: Turn) -> str:
    return _print(turn.before) + "{{ message['content'] }}" + _print(turn.after)


def _print(text: str) -> str:
    return f"{{{{ {_quote(text)} }}}}" if text else ""


def _quote(text: str) -> str:
    return "'" + "".join(_ESCAPES.get(character, character) for character in text) + "'"


# --- from Jinja ---

SYSTEM, USER, ANSWER, NEXT, LAST = "qzsystemzq", "qzuserzq", "qzanswerzq", "qznextzq", "qzlastzq"


def _chat(*contents: str) -> list[dict[str, str]]:
    roles = {SYSTEM: "system", USER: "user", NEXT: "user", ANSWER: "assistant", LAST: "assistant"}
    return [{"role": roles[content], "content": content} for content in contents]


def _probe(*turns: str) -> list[dict[str, str]]:
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns]


PROBES = (
    _probe("uHow many orders?"),
    _probe("u"),
    _probe("uHow many orders?", "aSELECT count(*) FROM orders;"),
    _probe("u 天气 \n", "a\n\n很好 🙂 "),
    _probe("uone", "atwo", "uthree"),
    _probe("uone", "a", "u{{ three }} {% if %}", 'a"four" \\n `x`', "ufive", "asix\n"),
)
SYSTEM_PROBES = tuple(
    [{"role": "system", "content": content}, *probe]
    for probe in PROBES
    for content in ("You write SQL.", " 分类 \n{x}\n")
)
LATER_SYSTEM = _probe("uone", "atwo", "sthree", "ufour")


@dataclass(frozen=True)
class _Renderer:
    """The tokenizer's Jinja as a function; None where the template refuses the messages."""

    tokenizer: Any

    def __call__(self, messages: Messages, add_generation_prompt: bool = False) -> str | None:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError):
            return None


def derive(tokenizer: Any) -> TurnTemplate | None:
    """The tokenizer's template as pieces, or None.

    None: no template, a template that reads the clock (its text would be frozen), or one that does more than write
    fixed text around each message (trims, drops, joins messages).
    """
    source = tokenizer.chat_template
    if not source or "strftime_now" in str(source):
        return None
    render = _Renderer(tokenizer)
    for pieces in (_pieces_once, _pieces_each_turn):
        template = pieces(render)
        if template is not None and proves(template, render):
            return _with_bos(template, tokenizer)
    return None


def proves(template: TurnTemplate, render: _Renderer) -> bool:
    """Whether both write the same text for every probe, with and without a generation prompt."""
    probes = PROBES + SYSTEM_PROBES if template.system is not None else PROBES
    if template.system is not None and render(LATER_SYSTEM) is not None:
        probes = (*probes, LATER_SYSTEM)  # some templates allow a system message at the start only
    return all(template.render(probe, ask) == render(probe, ask) for probe in probes for ask in (False, True))


def _pieces_once(render: _Renderer) -> TurnTemplate | None:
    """Pieces of a template that writes each message once."""
    plain = _between(render(_chat(USER, ANSWER, NEXT, LAST)), [USER, ANSWER, NEXT, LAST])
    turns = _turns(render, plain)
    if plain is None or turns is None or not plain[2].startswith(turns[1].after):
        return None
    before_user = plain[2].removeprefix(turns[1].after)
    if not plain[0].endswith(before_user):
        return None
    lead = plain[0].removesuffix(before_user)
    user = Turn(before_user, turns[0].after)
    base = TurnTemplate(user=user, assistant=turns[1], prefix=lead, generation=_generation(render, turns))
    told_text = render(_chat(SYSTEM, USER))
    if told_text is None:
        return base  # the template has no place for a system message, and says so
    told = _between(told_text, [SYSTEM, USER])
    if told is None or not told[1].endswith(before_user):
        return None
    return _with_system(base, render, told[0], told[1].removesuffix(before_user))


def _with_system(base: TurnTemplate, render: _Renderer, start: str, after: str) -> TurnTemplate | None:
    """Tell apart what begins every text, what begins a system message, and a default system message.

    Args:
        start: what is written before a first system message; ``after``: between it and a user message's own beginning.
    """
    lead = base.prefix  # what is written when there is no system message
    later = _between(render(_chat(USER, ANSWER, SYSTEM, NEXT)), [USER, ANSWER, SYSTEM, NEXT])
    if later is not None:
        before = later[2].removeprefix(base.assistant.after)
    else:  # only a first system message is allowed: its beginning shows where there is no default
        before = start.removeprefix(lead) if start.startswith(lead) else start
    if not start.endswith(before):
        return None
    prefix, default = start.removesuffix(before), None
    if lead != prefix:
        if not (lead.startswith(start) and lead[len(start) :].endswith(after)):
            return None
        default = lead[len(start) : len(lead) - len(after)]
    return TurnTemplate(base.user, base.assistant, Turn(before, after), default, prefix, base.generation)


def _pieces_each_turn(render: _Renderer) -> TurnTemplate | None:
    """Pieces of a template that writes the system's text again in every user turn."""
    told = _between(render(_chat(SYSTEM, USER, ANSWER, NEXT, LAST)), [SYSTEM, USER, ANSWER, SYSTEM, NEXT, LAST])
    plain = _between(render(_chat(USER, ANSWER, NEXT, LAST)), [USER, ANSWER, NEXT, LAST])
    turns = _turns(render, plain)
    if told is None or plain is None or turns is None or not told[3].startswith(turns[1].after):
        return None
    before_system = told[3].removeprefix(turns[1].after)
    if not told[0].endswith(before_system):
        return None
    prefix = told[0].removesuffix(before_system)
    silent = plain[0].removeprefix(prefix)  # the system's place when nothing is given, and what begins a user message
    user, generation = Turn(told[1], turns[0].after), _generation(render, turns)
    if silent.startswith(before_system) and silent.endswith(told[1]) and len(silent) >= len(before_system + told[1]):
        default: str | None = silent[len(before_system) : len(silent) - len(told[1])]
        system = Turn(before_system)
    else:
        if not told[1].endswith(silent):
            return None
        default, user = None, Turn(silent, user.after)
        system = Turn(before_system, told[1].removesuffix(silent))
    return TurnTemplate(user, turns[1], system, default, prefix, generation, system_place="each_turn")


def _turns(render: _Renderer, plain: list[str] | None) -> tuple[Turn, Turn] | None:
    """What is written after a user message, and around an assistant message (the user's ``before`` is still open)."""
    question = _between(render(_chat(USER)), [USER])
    if plain is None or question is None or not plain[1].startswith(question[1]):
        return None
    return Turn("", question[1]), Turn(plain[1].removeprefix(question[1]), plain[4])


def _generation(render: _Renderer, turns: tuple[Turn, Turn]) -> str | None:
    """The generation prompt where it is not what begins an assistant message."""
    asked = _between(render(_chat(USER), True), [USER])
    text = asked[1].removeprefix(turns[0].after) if asked else turns[1].before
    return None if text == turns[1].before else text


def _between(text: str | None, markers: Sequence[str]) -> list[str] | None:
    """The texts before, between and after the markers; None if they do not stand there once each, in this order."""
    if text is None:
        return None
    parts = []
    for marker in markers:
        part, found, text = text.partition(marker)
        if not found:
            return None
        parts.append(part)
    if any(marker in part for marker in markers for part in [*parts, text]):
        return None
    return [*parts, text]


def _with_bos(template: TurnTemplate, tokenizer: Any) -> TurnTemplate:
    """Take out the token that the tokenizer puts before every text anyway."""
    bos = own_bos(tokenizer)
    if not bos:
        return template
    if template.prefix.startswith(bos):
        return replace(template, prefix=template.prefix.removeprefix(bos), bos=bos)
    if not template.prefix and template.system and template.default_system is not None:
        before = template.system.before
        if before.startswith(bos):
            system = Turn(before.removeprefix(bos), template.system.after)
            return replace(template, system=system, bos=bos)
    return template


def own_bos(tokenizer: Any) -> str:
    """The text of the token that the tokenizer puts before every text by itself; "" if it does not."""
    first = tokenizer("a", add_special_tokens=True)["input_ids"][:1]
    bos = tokenizer.bos_token_id
    return str(tokenizer.bos_token) if bos is not None and first == [bos] else ""
