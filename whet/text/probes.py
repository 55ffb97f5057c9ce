"""Conversations on which two forms of a template are compared, and the tokenizer's Jinja as a function."""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError

from whet.text.template import Messages

SYSTEM, USER, ANSWER, NEXT, LAST = "qzsystemzq", "qzuserzq", "qzanswerzq", "qznextzq", "qzlastzq"
THOUGHT = "<think>\nTwo and two.\n</think>\n\nFour."
_ROLES = {"s": "system", "u": "user", "a": "assistant"}
_MARKED = {SYSTEM: "system", USER: "user", NEXT: "user", ANSWER: "assistant", LAST: "assistant"}


def chat(*turns: str) -> list[dict[str, str]]:
    """Messages, each given as the first letter of its role and its text."""
    return [{"role": _ROLES[turn[0]], "content": turn[1:]} for turn in turns]


def marked(*markers: str) -> list[dict[str, str]]:
    """Messages whose contents are these markers."""
    return [{"role": _MARKED[marker], "content": marker} for marker in markers]


PROBES = (
    chat("uHow many orders?"),
    chat("u"),
    chat("uHow many orders?", "aSELECT count(*) FROM orders;"),
    chat("u 天气 \n", "a\n\n很好 🙂 "),
    chat("uone", "atwo", "uthree"),
    chat("uone", "a", "u{{ three }} {% if %}", 'a"four" \\n `x`', "ufive", "asix\n"),
    chat("u \t\u00a0", "a \n ", "u\n"),
    chat("u### Instruction:\nTwo and two?\n\n### Response:\n", f"a{THOUGHT}", "uSure?", f"a{THOUGHT} "),
    chat("u<tool_response>\n4\n</tool_response>", "a<think>\n\n</think>\n\nFour", "u[INST] x [/INST] User: y"),
    chat("uone", "aThe end </think> of it", "u</think>", "a<tool_call>\n{}\n</tool_call>"),
)
_SYSTEMS = ("You write SQL.", " 分类 \n{x}\n", f"{THOUGHT}\n### System:")
SYSTEM_PROBES = tuple([{"role": "system", "content": content}, *probe] for probe in PROBES for content in _SYSTEMS)
EMPTY_SYSTEM = tuple([{"role": "system", "content": ""}, *probe] for probe in PROBES[:5])
LATER_SYSTEM = (chat("uone", "atwo", "sthree", "ufour"), chat("szero", "uone", "atwo", "sthree", "ufour", "afive"))


class Renderer:
    """A tokenizer's Jinja as a function of messages; None where the template refuses them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[tuple[str, bool], str | None] = {}

    def __call__(self, messages: Messages, add_generation_prompt: bool = False) -> str | None:
        key = repr(messages), add_generation_prompt
        if key not in self._known:
            self._known[key] = self._render(messages, add_generation_prompt)
        return self._known[key]

    def _render(self, messages: Messages, add_generation_prompt: bool) -> str | None:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError):
            return None


def between(text: str | None, markers: list[str]) -> list[str] | None:
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
