"""The conversations on which an exported model is compared with the trained one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from whet.errors import DataError
from whet.export.modelfile import Template

Messages = list[dict[str, str]]

# Code, figures, white space and other scripts: what a wrong tokenizer trips over.
DEFAULT_PROBES: list[Messages] = [
    [{"role": "user", "content": "How many orders were shipped in March 2024, and what did they cost in all?"}],
    [
        {"role": "system", "content": "You answer with one SQL query."},
        {"role": "user", "content": "Which 3 customers in Graz bought most?\n\n\tTable: orders(id, customer, total)"},
    ],
    [
        {"role": "user", "content": "def add(a, b):\n    return a+b  # what's wrong here, if anything?"},
        {"role": "assistant", "content": "Nothing: it's correct. It returns 3.14159 for (3, 0.14159)."},
        {"role": "user", "content": "Was heißt das auf Französisch? 请翻译成中文。 🙂"},
    ],
    [
        {"role": "user", "content": "SELECT name FROM employees WHERE NOT salary >= 1000000 ORDER BY name LIMIT 12;"},
        {"role": "assistant", "content": "The names of those who earn less than 1,000,000, from A to Z, twelve rows."},
    ],
]


@dataclass(frozen=True)
class RenderedProbe:
    """A conversation as the text that the model reads. ``plain``: without any template."""

    messages: Messages
    text: str
    plain: bool


def render_probes(tokenizer: Any, template: Template | None, probes: Sequence[Messages]) -> list[RenderedProbe]:
    """Every probe through the template that the model was trained with.

    That is ``template``, else the tokenizer's; where there is neither, the contents as plain text. System messages are
    left out where the template refuses them.
    """
    rendered = []
    for messages in probes:
        kept = list(messages)
        text = _render(tokenizer, template, kept)
        if text is None:
            kept = [message for message in messages if message["role"] != "system"]
            text = _render(tokenizer, template, kept)
        plain = text is None
        joined = "\n".join(message["content"] for message in messages)
        rendered.append(RenderedProbe(list(messages) if plain else kept, joined if text is None else text, plain))
    return rendered


def _render(tokenizer: Any, template: Template | None, messages: Messages) -> str | None:
    ask = bool(messages) and messages[-1]["role"] != "assistant"
    try:
        if template is not None:
            return template.render(messages, add_generation_prompt=ask)
        if not getattr(tokenizer, "chat_template", None):
            return None
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except (TemplateError, DataError):
        return None
