"""One answer of a transformers model, token by token, with the settings of :class:`Sampling`."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from whet.engine.attached import decoder_of
from whet.engine.decode import Decoder
from whet.engine.generate import logits_after
from whet.engine.spec import Unsupported
from whet.evaluate.generate import evaluating, say_once
from whet.serve.sampling import PENALTY_TOKENS, Sampling


@dataclass(frozen=True)
class Drawn:
    """A token of the answer.

    Args:
        logits_V: of the whole vocabulary at its place, before any setting; float32, shape [vocabulary].
    """

    id: int
    logits_V: torch.Tensor

    @property
    def logprobs_V(self) -> torch.Tensor:
        """The log-probabilities of the whole vocabulary; shape [vocabulary]."""
        return self.logits_V.log_softmax(dim=-1)


def drawn_tokens(
    model: Any, prompt: Sequence[int], max_tokens: int, sampling: Sampling
) -> Generator[Drawn, None, None]:
    """The tokens that follow ``prompt``, end tokens included; it is for the caller to stop at one.

    Args:
        prompt: token ids, at least one.
    """
    chance = torch.Generator().manual_seed(secrets.randbits(62) if sampling.seed is None else sampling.seed % 2**63)
    ids = list(prompt)
    with evaluating(model):
        steps = _steps(model, prompt, max_tokens)
        logits_V = next(steps)
        for made in range(1, max_tokens + 1):
            logits_V = logits_V.to("cpu", torch.float32, copy=True)  # the decoder may write the next ones over these
            token = _draw(logits_V, ids, sampling, chance)
            yield Drawn(token, logits_V)
            ids.append(token)
            if made < max_tokens:
                logits_V = steps.send(token)


def _steps(model: Any, prompt: Sequence[int], most: int) -> Generator[torch.Tensor, int, None]:
    """The logits after the prompt, then after each token that is sent: by whet's decoder where it takes the model."""
    decoder = decoder_of(model)
    problem = decoder.reason if isinstance(decoder, Unsupported) else decoder.length_problem(len(prompt) + most)
    if isinstance(decoder, Decoder) and not problem:
        return logits_after(decoder, prompt, most)
    say_once(f"answers are made by transformers, not by whet's decoder: {problem}")
    return _own_steps(model, prompt)


def _own_steps(model: Any, prompt: Sequence[int]) -> Generator[torch.Tensor, int, None]:
    device = model.get_input_embeddings().weight.device
    cache, step = DynamicCache(), list(prompt)
    while True:
        with torch.inference_mode():
            step_1T = torch.tensor([step], device=device)
            logits_1TV = model(input_ids=step_1T, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        step = [(yield logits_1TV[0, -1])]


def _draw(logits_V: torch.Tensor, before: Sequence[int], sampling: Sampling, chance: torch.Generator) -> int:
    """One token; the settings act in llama.cpp's order."""
    changed_V = _changed(logits_V, before, sampling)
    if sampling.temperature == 0:
        return int(changed_V.argmax())
    kept = min(sampling.top_k, len(changed_V)) if sampling.top_k else len(changed_V)
    best_K, ids_K = changed_V.topk(kept)  # sorted, the most likely first
    share_K = best_K.softmax(dim=-1)
    keep_K = share_K.cumsum(dim=-1) - share_K < sampling.top_p
    keep_K &= best_K >= best_K[0] + torch.tensor(sampling.min_p).log()
    keep_K[0] = True
    weights_K = (best_K.masked_fill(~keep_K, -torch.inf) / sampling.temperature).softmax(dim=-1)
    return int(ids_K[torch.multinomial(weights_K, 1, generator=chance)])


def _changed(logits_V: torch.Tensor, before: Sequence[int], sampling: Sampling) -> torch.Tensor:
    """With biases and penalties."""
    if not (sampling.logit_bias or sampling.presence_penalty or sampling.frequency_penalty):
        return logits_V
    changed_V = logits_V.clone()
    for token, bias in sampling.logit_bias.items():
        if token < len(changed_V):
            changed_V[token] += bias
    counts_V = torch.bincount(torch.tensor(before[-PENALTY_TOKENS:]), minlength=len(changed_V))[: len(changed_V)]
    return changed_V - sampling.presence_penalty * (counts_V > 0) - sampling.frequency_penalty * counts_V
