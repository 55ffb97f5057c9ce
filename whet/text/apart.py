"""A rendered conversation back to its messages, where questions and answers take turns."""

from __future__ import annotations

from whet.text.template import TurnTemplate

Message = dict[str, str]


def in_turns(template: TurnTemplate, text: str) -> list[Message] | None:
    """The messages of a text without bos: a system message or none, then questions and answers. None: it is not one.

    Between two contents the whole text that the template writes there is looked for. So a question may hold anything
    but that, a blank line, say. A default system message is no message. The caller renders the result to make sure.
    """
    if not text.startswith(template.prefix) or template.system_place == "each_turn":
        return None
    rest = text.removeprefix(template.prefix).removesuffix(template.suffix)
    messages, rest = _system(template, rest)
    user, assistant = template.user, template.assistant
    while rest.strip():
        question, found, rest = rest.partition(user.after + assistant.before)
        if not found or not question.startswith(user.before):
            return None
        messages.append({"role": "user", "content": question.removeprefix(user.before)})
        answer, rest = _answer(template, rest)
        if answer is None:
            return None
        messages.append({"role": "assistant", "content": answer})
    return messages


def _system(template: TurnTemplate, text: str) -> tuple[list[Message], str]:
    """A system message at the beginning, and the rest."""
    system, before_user = template.system, template.user.before
    if system is None or template.system_place == "first_user" or (before_user and text.startswith(before_user)):
        return [], text
    told, found, rest = text.partition(system.after + before_user)
    if not found or not told.startswith(system.before):
        return [], text
    content = told.removeprefix(system.before)
    given = [] if content == template.default_system else [{"role": "system", "content": content}]
    return given, before_user + rest


def _answer(template: TurnTemplate, text: str) -> tuple[str | None, str]:
    """The answer that begins the text, and what follows its end. White space may be missing at the end of the text."""
    after, before_user = template.assistant.after, template.user.before
    answer, found, rest = text.partition(after + before_user) if after + before_user else (text, "", "")
    if found:
        return answer, before_user + rest
    body, close = text.rstrip(), after.rstrip()
    return (body.removesuffix(close), "") if body.endswith(close) else (None, "")
