"""Can a conversation be trained, and if not, why not?"""

from __future__ import annotations

from typing import Any

from whet.data.formats.cells import NO_ANSWER

EMPTY = "an empty conversation"
EMPTY_END = "the last answer is empty"
UNTRAINED = "no message is to be trained"


def judge(messages: list[dict[str, Any]]) -> str:
    """Why a conversation cannot be trained; empty where it can."""
    if not messages:
        return EMPTY
    flagged = answered = False
    for message in messages:
        if "train" in message:
            flagged = True
        if message["role"] == "assistant" and not answered:
            answered = has_answer(message)
    if flagged:
        wanted = (m for m in messages if m.get("train", m["role"] == "assistant"))
        if not any(has_answer(message) for message in wanted):
            return UNTRAINED if answered else NO_ANSWER
    elif not answered:
        return NO_ANSWER
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    return EMPTY_END if last is not None and not has_answer(last) and last.get("train", True) else ""


def has_answer(message: dict[str, Any]) -> bool:
    """Is there text, or a tool call? What was only thought is no answer."""
    content = message["content"]
    return bool(content and not content.isspace()) or bool(message.get("tool_calls"))
