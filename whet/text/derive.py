"""From Jinja to a ``TurnTemplate``.

The template is run on messages with marker words; the text between the markers gives the pieces. They may be read in
several ways (where the system's text stands, whether contents are trimmed); the first reading counts that renders all
probe conversations exactly as the Jinja does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from whet.text.jinja import own_bos
from whet.text.probes import (
    ANSWER,
    EMPTY_SYSTEM,
    LAST,
    LATER_SYSTEM,
    NEXT,
    PROBES,
    SYSTEM,
    SYSTEM_PROBES,
    USER,
    Renderer,
    between,
    marked,
)
from whet.text.reasons import READS_THE_CLOCK, why_not_pieces
from whet.text.template import Messages, Turn, TurnTemplate


def derive(tokenizer: Any) -> tuple[TurnTemplate | None, str]:
    """The tokenizer's template as pieces, or None and the reason.

    A template that reads the clock is never taken: its text would be frozen. Neither is one that does more than write
    fixed text around each message (drops thinking, joins messages, writes the last turn in another way).
    """
    source = tokenizer.chat_template
    if not source:
        return None, "there is no chat template"
    if "strftime_now" in str(source):
        return None, READS_THE_CLOCK
    render = Renderer(tokenizer)
    for reading in _readings(render, _specials(tokenizer)):
        template = _proved(reading, render)
        if template is not None:
            return _with_bos(template, tokenizer), ""
    return None, why_not_pieces(render)


def _specials(tokenizer: Any) -> tuple[str, ...]:
    return tuple(token for token in tokenizer.all_special_tokens if token)


def _proved(template: TurnTemplate, render: Renderer) -> TurnTemplate | None:
    """The template, trimmed or not, that writes every probe as the Jinja does; None if there is none."""
    for found in _variants(template):
        if all(_same(found, render, probe) for probe in _probes(found, render)):
            return found
    return None


def _variants(template: TurnTemplate) -> Iterator[TurnTemplate]:
    """The pieces with each way to treat white space and an empty system message."""
    if template.system is None:
        yield from (replace(template, trim=trim) for trim in (False, True))
        return
    for trim, trim_system in ((False, None), (True, None), (True, False), (False, True)):
        for skip_empty in (False, True):
            yield replace(template, trim=trim, trim_system=trim_system, skip_empty_system=skip_empty)


def _probes(template: TurnTemplate, render: Renderer) -> Iterator[Messages]:
    yield from PROBES
    if template.system is not None:
        yield from SYSTEM_PROBES
        yield from EMPTY_SYSTEM
        if template.system_place in ("turn", "each_turn") and render(LATER_SYSTEM[0]) is not None:
            yield from LATER_SYSTEM


def _same(template: TurnTemplate, render: Renderer, probe: Messages) -> bool:
    """Whether both write the same text, and the same prompt where the user speaks last."""
    if template.render(probe) != render(probe):
        return False
    return probe[-1]["role"] == "assistant" or template.render(probe, True) == render(probe, True)


def _readings(render: Renderer, specials: tuple[str, ...]) -> Iterator[TurnTemplate]:
    """Templates that the Jinja may be, the most usual first."""
    plain = between(render(marked(USER, ANSWER, NEXT, LAST)), [USER, ANSWER, NEXT, LAST])
    question = between(render(marked(USER)), [USER])
    if plain is None or question is None:
        return
    for suffix in _suffixes(plain[4], question[1], specials):
        user_after = question[1].removesuffix(suffix)
        assistant_after = plain[4].removesuffix(suffix)
        if not plain[1].startswith(user_after):
            continue
        assistant = Turn(plain[1].removeprefix(user_after), assistant_after)
        base = TurnTemplate(Turn("", user_after), assistant, suffix=suffix)
        base = replace(base, generation=_generation(render, base))
        if plain[2].startswith(assistant_after):
            before_user = plain[2].removeprefix(assistant_after)
            yield from _written_once(base, render, plain[0], before_user)
            yield from _in_first_user(base, render, plain[0], before_user)
        yield from _written_each_turn(base, render, plain[0])


def _suffixes(last: str, asked: str, specials: tuple[str, ...]) -> list[str]:
    """What may be written once at the end: nothing, or what both texts end with from a special token on."""
    found = {last[i:] for token in specials for i in range(len(last)) if last.startswith(token, i)}
    return ["", *sorted((text for text in found if asked.endswith(text)), key=len)]


def _generation(render: Renderer, base: TurnTemplate) -> str | None:
    """The generation prompt where it is not what begins an assistant message."""
    asked = between(render(marked(USER), True), [USER])
    text = asked[1].removeprefix(base.user.after) if asked else base.assistant.before
    return None if text == base.assistant.before else text


def _written_once(base: TurnTemplate, render: Renderer, start: str, before_user: str) -> Iterator[TurnTemplate]:
    """Readings in which a system message is written once, or not at all.

    Args:
        start: what is written before a first user message when there is no system message.
        before_user: what begins a user message.
    """
    if not start.endswith(before_user):
        return
    lead = start.removesuffix(before_user)
    base = replace(base, user=Turn(before_user, base.user.after), prefix=lead)
    told_text = render(marked(SYSTEM, USER))
    if told_text is None:
        yield base  # the template has no place for a system message, and says so
        return
    told = between(told_text, [SYSTEM, USER])
    if told is None:
        return
    if told[1].endswith(before_user):
        yield from _as_a_turn(base, render, told[0], told[1].removesuffix(before_user))


def _in_first_user(base: TurnTemplate, render: Renderer, start: str, before_user: str) -> Iterator[TurnTemplate]:
    """Readings in which the system's text stands inside the first user turn."""
    told = between(render(marked(SYSTEM, USER)), [SYSTEM, USER])
    if told is None:
        return
    base = replace(base, user=Turn(before_user, base.user.after), system_place="first_user")
    if start.endswith(before_user) and told[0].startswith(start):
        system = Turn(told[0].removeprefix(start), told[1])
        yield replace(base, system=system, prefix=start.removesuffix(before_user))
    elif start.startswith(told[0]) and start.endswith(told[1]) and len(start) >= len(told[0] + told[1]):
        prefix, _, before = told[0].partition(before_user)
        default = start[len(told[0]) : len(start) - len(told[1])]
        yield replace(base, system=Turn(before, told[1]), default_system=default, prefix=prefix)


def _as_a_turn(base: TurnTemplate, render: Renderer, start: str, after: str) -> Iterator[TurnTemplate]:
    """Tell apart what begins every text, what begins a system message, and a default system message.

    Args:
        start: what is written before a first system message; ``after``: between it and a user message's own beginning.
    """
    later = between(render(marked(USER, ANSWER, SYSTEM, NEXT)), [USER, ANSWER, SYSTEM, NEXT])
    # where there is no default, the lead without a system message shows where the system's own text begins
    alone = start.removeprefix(base.prefix) if start.startswith(base.prefix) else start
    if later is not None:
        before = later[2].removeprefix(base.assistant.after)
        again = Turn(before, later[3].removesuffix(base.user.before))
        yield from _with_default(base, start, Turn(before, after))
        for template in _with_default(base, start, Turn(alone, after)):
            yield replace(template, later_system=again)
    for template in _with_default(base, start, Turn(alone, after)):
        yield replace(template, system_place="start")


def _with_default(base: TurnTemplate, start: str, system: Turn) -> Iterator[TurnTemplate]:
    lead = base.prefix  # what is written when there is no system message
    if not start.endswith(system.before):
        return
    prefix, default = start.removesuffix(system.before), None
    if lead != prefix:
        if not (lead.startswith(start) and lead[len(start) :].endswith(system.after)):
            return
        default = lead[len(start) : len(lead) - len(system.after)]
    yield replace(base, system=system, default_system=default, prefix=prefix)


def _written_each_turn(base: TurnTemplate, render: Renderer, start: str) -> Iterator[TurnTemplate]:
    """The reading in which the system's text is written again in every user turn."""
    told = between(render(marked(SYSTEM, USER, ANSWER, NEXT, LAST)), [SYSTEM, USER, ANSWER, SYSTEM, NEXT, LAST])
    if told is None or not told[3].startswith(base.assistant.after):
        return
    before_system = told[3].removeprefix(base.assistant.after)
    if not told[0].endswith(before_system):
        return
    prefix = told[0].removesuffix(before_system)
    silent = start.removeprefix(prefix)  # the system's place when nothing is given, and what begins a user message
    if silent.startswith(before_system) and silent.endswith(told[1]) and len(silent) >= len(before_system + told[1]):
        default: str | None = silent[len(before_system) : len(silent) - len(told[1])]
        system, before_user = Turn(before_system), told[1]
    elif told[1].endswith(silent):
        default, before_user = None, silent
        system = Turn(before_system, told[1].removesuffix(silent))
    else:
        return
    user = Turn(before_user, base.user.after)
    yield replace(base, user=user, system=system, default_system=default, prefix=prefix, system_place="each_turn")


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
