"""What a config says of its base model, before any weights are read."""

from __future__ import annotations

from typing import Any

from whet.config import RunConfig
from whet.errors import WhetError
from whet.models.load import config_of, context_length, tokenizer_of
from whet.models.names import STARTER
from whet.train.template import choose_template


def base_name(config: RunConfig) -> str:
    """The base model as ``whet.models`` takes it."""
    return config.base_model if config.base_model == STARTER else str(config.resolve_path(config.base_model))


def tokenizer_for(config: RunConfig) -> Any:
    """The run's tokenizer, with its special tokens and chat template as the config names them.

    Raises:
        WhetError: no such model, or a special token that the vocabulary lacks.
    """
    tokenizer = tokenizer_of(base_name(config), revision=config.revision_of_model)
    wanted = config.special_tokens.model_dump(exclude_none=True) if config.special_tokens else {}
    for name, text in wanted.items():
        if text not in tokenizer.get_vocab():
            raise WhetError(f"special_tokens.{name}: {text!r} is not in the vocabulary", "a token that the model knows")
        setattr(tokenizer, name, text)
    choose_template(tokenizer, config.chat_template, config.chat_template_text())
    return tokenizer


def longest_row(config: RunConfig) -> int:
    """Tokens of the longest row: ``sequence_len``, or what the model can read where that is less."""
    return context_length(config_of(base_name(config), revision=config.revision_of_model), config.sequence_len)
