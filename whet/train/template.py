"""Which chat template does a run teach? It is settled here once, and everything after the run speaks it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whet.console import notice, warn
from whet.data.records import ChatRecord, PairRecord, Record, TextRecord
from whet.errors import DataError
from whet.text.chat import bundled_chat_template, chat_template_of
from whet.text.frame import template_of_pairs, template_of_rows


def settle_template(tokenizer: Any, records: Sequence[Record], documents: bool = False) -> str:
    """Set ``tokenizer.chat_template`` to the template that these records are written in; say which it is.

    Conversations are rendered with the tokenizer's own template. Texts and pairs that were formatted by hand do not
    use it: their frame takes its place, or, where none can be found, nothing does, since a model must not be exported
    with a template that it never saw.

    Args:
        documents: the rows are raw text (continued pretraining): what the base model knows of conversations stays.

    Returns:
        "tokenizer", "frame" or "unknown".

    Raises:
        DataError: conversations, and a template that writes nothing after an answer.
    """
    first = records[0]
    if isinstance(first, ChatRecord):
        _require_ending(tokenizer)
        return "tokenizer"
    if isinstance(first, PairRecord):
        found = template_of_pairs(tokenizer, [(r.prompt, r.completion) for r in records if isinstance(r, PairRecord)])
    else:
        found = template_of_rows(tokenizer, _as_trained(tokenizer, records))
    if found.kind == "frame" and found.template is not None:
        tokenizer.chat_template = found.template.jinja()
        notice(f"chat template: the frame of your rows ({found.reason})", key="chat template")
    elif found.kind == "unknown" and documents:
        notice("chat template: the base model's own stays; raw text does not train it", key="chat template")
        return "tokenizer"
    elif found.kind == "unknown":
        tokenizer.chat_template = None
        warn(
            f"chat template: none ({found.reason}). The rows do not use the tokenizer's template, and no common frame "
            "was found in them. The exported model carries no template; give it the text as in training.",
            key="chat template",
        )
    return found.kind


def _require_ending(tokenizer: Any) -> None:
    """A model that never saw an answer end goes on for ever."""
    template = chat_template_of(tokenizer)
    if template is not None and not template.ends_answers:
        raise DataError(
            "the chat template writes nothing after an answer: the model could not learn to stop",
            "a template that ends each answer with a token of its own",
            "choose another chat_template (chatml, say)",
        )


def _as_trained(tokenizer: Any, records: Sequence[Record]) -> list[str]:
    """The texts with the end token that training adds."""
    end = tokenizer.eos_token or ""
    texts = (r.text for r in records if isinstance(r, TextRecord))
    return [text if not end or text.rstrip().endswith(end) else text + end for text in texts]


def choose_template(tokenizer: Any, name: str, jinja: str | None) -> None:
    """Apply the config's ``chat_template``: the tokenizer's own, a bundled name, or Jinja text."""
    if name == "tokenizer_default":
        return
    tokenizer.chat_template = jinja if name == "jinja" else bundled_chat_template(name, tokenizer).jinja
