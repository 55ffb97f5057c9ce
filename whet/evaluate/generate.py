"""Greedy answers to many prompts: by whet's decoder, or by transformers' ``generate`` for a model it does not take.

The decoder needs no padding, and every prompt gets what it gets alone (on a CPU bit by bit). transformers gets batches
padded at the left and masked: the same up to float rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from whet.console import notice
from whet.engine.attached import decoder_of
from whet.engine.generate import Options, generate
from whet.engine.spec import Unsupported
from whet.errors import DataError
from whet.evaluate.prompts import chat_ids, context_limit, fit_to_context, stop_ids, text_ids

BATCH_SIZE = 64


def greedy_answers(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """The assistant's next message for each conversation, at temperature 0, in the order given.

    Args:
        conversations: messages ``{"role", "content"}``; the tokenizer's chat template writes the prompt.
        max_new_tokens: the longest answer, in tokens.
        batch_size: prompts at a time.
        on_done: called with a number of answers that are ready (``Progress.advance`` fits).

    Raises:
        ModelError: the tokenizer has no chat template.
        DataError: the template refuses a conversation.
    """
    prompts = [chat_ids(tokenizer, messages) for messages in conversations]
    return _texts(tokenizer, greedy_ids(model, tokenizer, prompts, max_new_tokens, batch_size, on_done))


def greedy_completions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """What follows each plain text, at temperature 0; arguments as in ``greedy_answers``."""
    ids = [text_ids(tokenizer, prompt) for prompt in prompts]
    return _texts(tokenizer, greedy_ids(model, tokenizer, ids, max_new_tokens, batch_size, on_done))


def greedy_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
    on_done: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """The ids that follow each prompt, up to a token that ends the answer; that token is not part of them.

    Prompts too long for the model lose their beginning, which is said. The model's training mode is left as it was.

    Raises:
        DataError: an empty prompt.
    """
    empty = next((i for i, prompt in enumerate(prompts) if not prompt), None)
    if empty is not None:
        raise DataError(f"prompt {empty} is empty", "at least one token")
    prompts, max_new_tokens = fit_to_context(prompts, max_new_tokens, context_limit(model, tokenizer))
    stops = stop_ids(model, tokenizer)
    order = sorted(
        range(len(prompts)), key=lambda i: -len(prompts[i])
    )  # longest first: memory is short at once or never
    ordered = [prompts[i] for i in order]
    with evaluating(model):
        decoder = decoder_of(model)
        if isinstance(decoder, Unsupported):
            say_once(f"answers are made by transformers, not by whet's decoder: {decoder.reason}")
            made = _by_transformers(model, tokenizer, ordered, max_new_tokens, batch_size, stops, on_done)
        else:
            options = Options(max_new_tokens, frozenset(stops), slots=batch_size)
            try:
                made = generate(decoder, ordered, options, lambda _: on_done(1) if on_done is not None else None)
            finally:
                decoder.kept = None  # keys and values of so many sequences are gigabytes that others may need
    answers: list[list[int]] = [[] for _ in prompts]
    for i, ids in zip(order, made, strict=True):
        answers[i] = until_stop(ids, stops)
    return answers


@functools.cache
def say_once(text: str) -> None:
    """A note, the first time."""
    notice(text)


def greedy_config(max_new_tokens: int, stops: list[int], pad: int) -> GenerationConfig:
    """Plain greedy decoding. Some models ship a repetition penalty; llama.cpp and a comparison know none."""
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops or None,
        pad_token_id=pad,
        use_cache=True,
    )


def pad_id(tokenizer: Any, stops: Sequence[int]) -> int:
    """A token to fill rows with; it is masked, so any will do."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return stops[0] if stops else 0


def until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """``ids`` up to the first one that ends the answer."""
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off inside; afterwards each part of the model trains or not as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _by_transformers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int,
    stops: list[int],
    on_done: Callable[[int], None] | None,
) -> list[list[int]]:
    pad = pad_id(tokenizer, stops)
    config = greedy_config(max_new_tokens, stops, pad)
    made: list[list[int]] = []
    with torch.inference_mode():
        for start in range(0, len(prompts), batch_size):
            batch = list(prompts[start : start + batch_size])
            made += _batch(model, batch, pad, config)
            if on_done is not None:
                on_done(len(batch))
    return made


def _batch(model: Any, prompts: list[list[int]], pad: int, config: GenerationConfig) -> list[list[int]]:
    width = max(map(len, prompts))
    device = model.get_input_embeddings().weight.device
    input_ids_BT = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=device)
    mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    own = type(model).generate  # whet may have bound another one on the model (evaluate/model_generate.py)
    made_BT = own(model, input_ids=input_ids_BT, attention_mask=mask_BT, generation_config=config)
    return made_BT[:, width:].tolist()


def _texts(tokenizer: Any, answers: list[list[int]]) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
