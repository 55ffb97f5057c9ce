"""Are rows of text in the tokenizer's own chat template?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from whet.text.apart import in_turns
from whet.text.jinja import own_bos
from whet.text.template import TurnTemplate, from_jinja

NEARLY_ALL = 0.97


def in_own_template(tokenizer: Any, texts: Sequence[str]) -> bool:
    """Whether nearly all rows are conversations as the tokenizer's chat template writes them.

    A template made of fixed pieces is checked exactly: the row is taken apart and rendered again. Of any other
    template, the text between a question and its answer must stand in the row, and the row must begin as it does.
    """
    if not tokenizer.chat_template or not texts:
        return False
    template = from_jinja(tokenizer)
    if template is not None:
        good = sum(_is_rendered(template, text, own_bos(tokenizer)) for text in texts)
    else:
        good = _looks_rendered(tokenizer, texts)
    return good >= NEARLY_ALL * len(texts)


def _is_rendered(template: TurnTemplate, text: str, bos: str) -> bool:
    """Whether the row is what the template writes; a missing bos and missing white space at the end are allowed."""
    text = text.removeprefix(bos).rstrip()
    messages = take_apart(template, text) or in_turns(template, text)
    if not messages or not any(message["role"] == "assistant" for message in messages):
        return False
    return text in _endings(template, template.render(messages).removeprefix(template.bos))


def _endings(template: TurnTemplate, written: str) -> tuple[str, str]:
    """The text with and without what is written once at the end."""
    return written.rstrip(), written.removesuffix(template.suffix).rstrip()


def take_apart(template: TurnTemplate, text: str) -> list[dict[str, str]] | None:
    """The messages of a rendered conversation without bos; None if it is not one.

    White space may be missing at the end. Contents that hold the template's own pieces cannot be told apart. A system
    text inside the first question stays part of it.
    """
    if template.system_place == "each_turn" or not text.startswith(template.prefix):
        return None
    turns = {"user": template.user, "assistant": template.assistant}
    if template.system is not None and template.system_place != "first_user":
        turns["system"] = template.system
    rest, messages = text[len(template.prefix) :].removesuffix(template.suffix), []
    while rest.strip():
        fitting = [role for role, turn in turns.items() if turn.before and rest.startswith(turn.before)]
        if not fitting:
            return None
        role = max(fitting, key=lambda role: len(turns[role].before))
        before, after = turns[role].before, turns[role].after
        content, end, left = rest[len(before) :].partition(after or "\0")
        if not end:
            content, end, left = rest[len(before) :].partition(after.rstrip() or "\0")
            if left.strip() or not end:
                return None
        messages.append({"role": role, "content": content})
        rest = left
    return _without_default(template, messages)


def _without_default(template: TurnTemplate, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    first: Mapping[str, str] = messages[0] if messages else {}
    if template.system is None or template.default_system is None or not messages:
        return messages
    if first["role"] == "system" and first["content"] == template.default_system:
        return messages[1:]
    folded = template.system.before + template.default_system + template.system.after
    if template.system_place == "first_user" and first["content"].startswith(folded):
        return [{"role": first["role"], "content": first["content"].removeprefix(folded)}, *messages[1:]]
    return messages


def _looks_rendered(tokenizer: Any, texts: Sequence[str]) -> int:
    """How many rows hold the text that stands between question and answer, and begin as the template does."""
    question, answer = "qzuserzq", "qzanswerzq"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    try:
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, ValueError, KeyError):
        return 0
    head, _, rest = rendered.partition(question)
    between, found, _ = rest.partition(answer)
    bos = own_bos(tokenizer)
    start = head.removeprefix(bos).strip().partition("\n")[0]
    if not found or not between.strip() or not start:
        return 0
    return sum(between.strip() in text and text.removeprefix(bos).lstrip().startswith(start) for text in texts)
