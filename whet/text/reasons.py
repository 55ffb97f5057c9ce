"""Why a chat template cannot be said in fixed pieces: one clause for the user."""

from __future__ import annotations

from whet.text.probes import ANSWER, LAST, NEXT, SYSTEM, THOUGHT, USER, Renderer, between, chat, marked

READS_THE_CLOCK = "it writes today's date"
TRIMS = "it takes away the white space around contents, and a Go template cannot do that"
_SPACED = " \n word \n"


def why_not_pieces(render: Renderer) -> str:
    """The first thing that the template is seen to do beyond writing fixed text around each message."""
    if render(marked(USER)) is None:
        return "it refuses a plain question"
    found = (reason(render) for reason in (_speakers, _thinking, _white_space, _system))
    return next((reason for reason in found if reason), "it changes what it writes with the contents")


def _speakers(render: Renderer) -> str:
    whole = render(marked(USER, ANSWER, NEXT, LAST))
    if whole is None:
        return "it refuses a conversation of two questions and answers"
    parts = between(whole, [USER, ANSWER, NEXT, LAST])
    if parts is None:
        return "it does not write every message once and in order"
    if parts[1] != parts[3]:
        return "it writes earlier answers in another way than the last one"
    if not parts[4].strip() and not parts[0].endswith(parts[2].removeprefix(parts[4])):
        return "it leaves the last answer open"
    return ""


def _thinking(render: Renderer) -> str:
    for probe in (chat("uone", f"a{THOUGHT}"), chat("uone", f"a{THOUGHT}", "utwo", "athree")):
        if THOUGHT not in (render(probe) or ""):
            return "it takes the thinking out of answers"
    return ""


def _white_space(render: Renderer) -> str:
    probes = {
        "questions": chat(f"u{_SPACED}"),
        "answers": chat("uone", f"a{_SPACED}"),
        "system messages": chat(f"s{_SPACED}", "uone", "atwo"),
    }
    texts = {what: render(probe) for what, probe in probes.items()}
    changed = [what for what, text in texts.items() if text and "word" in text and _SPACED not in text]
    return f"it takes white space away from {' and '.join(changed)}" if changed else ""


def _system(render: Renderer) -> str:
    asked, answered = render(marked(SYSTEM, USER)), render(marked(SYSTEM, USER, ANSWER))
    if asked is None:
        return "it refuses a system message"
    if SYSTEM not in asked:
        return "it leaves out the system message"
    if answered is None or SYSTEM not in answered:
        return "it writes the system's text in the last user turn only"
    if render(chat("uone", "a")) is None:
        return "it refuses empty answers"
    if between(asked, [SYSTEM, USER]) is None:
        return "it does not write every message once and in order"
    return "it writes its default system message in another way than a given one, or adds to both"
