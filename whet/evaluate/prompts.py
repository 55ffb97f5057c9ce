"""From messages or text to the ids of a prompt; where a model's answer ends; how much it can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whet.console import notice
from whet.errors import DataError, ModelError
from whet.text.encode import IGNORE, encode_messages, render_prompt

UNLIMITED = 10**9  # tokenizers without a limit of their own name a larger number than this

_PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The ids of a conversation in the tokenizer's chat template, ending where the assistant is to speak.

    Raises:
        ModelError: the tokenizer has no chat template.
        DataError: the template refuses the messages.
    """
    return list(tokenizer(render_prompt(tokenizer, messages), add_special_tokens=False)["input_ids"])


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a plain text that is to go on: with the tokenizer's own beginning token, without its end token."""
    ids = list(tokenizer(text)["input_ids"])
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Token ids that end an answer.

    The tokenizer's end token, the model's own ones, and the token that the chat template writes after an answer: of
    a base model with a chat template these are often two different tokens.
    """
    own = getattr(model.generation_config, "eos_token_id", None)
    found = set(own) if isinstance(own, list | tuple) else {own}
    found |= {tokenizer.eos_token_id, _turn_end(tokenizer)}
    return sorted(token for token in found if token is not None)


def _turn_end(tokenizer: Any) -> int | None:
    """The special token that ends an assistant's turn: the last one that training on a conversation would train."""
    if not tokenizer.chat_template:
        return None
    try:
        labels = encode_messages(tokenizer, _PROBE).labels
    except (DataError, ModelError):  # a template that cannot be masked: the model's own end tokens remain
        return None
    last = next((label for label in reversed(labels) if label != IGNORE), None)
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return last if last in special | set(tokenizer.all_special_ids) else None


def context_limit(model: Any, tokenizer: Any) -> int | None:
    """How many tokens the model can read, answer included; None when nothing says it."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    known = [int(limit) for limit in limits if limit and limit < UNLIMITED]
    return min(known, default=None)


def fit_to_context(
    prompts: Sequence[list[int]], max_new_tokens: int, context: int | None
) -> tuple[list[list[int]], int]:
    """Prompts and answer length that fit the model. What is shortened is counted and said.

    An answer takes at most half of the context; a prompt too long for the rest loses its beginning.
    """
    if context is None:
        return list(prompts), max_new_tokens
    room = min(max_new_tokens, context // 2)
    if room < max_new_tokens:
        notice(f"answers are limited to {room:,} tokens: the model reads {context:,} in all")
    long = sum(len(prompt) > context - room for prompt in prompts)
    if long:
        notice(f"{long:,} of {len(prompts):,} prompts are too long for the model: they lost their beginning")
    return [prompt[-(context - room) :] for prompt in prompts], room
