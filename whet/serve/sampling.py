"""How an answer is drawn: one set of settings for torch and llama.cpp, with llama.cpp's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PENALTY_TOKENS = 64  # how far back the penalties look; llama.cpp's own value


@dataclass(frozen=True)
class Sampling:
    """Settings of one answer; they act in this order: biases and penalties, top_k, top_p, min_p, temperature.

    Args:
        temperature: 0 takes the most likely token always.
        top_k: only so many of the most likely tokens; 0: all.
        top_p: the smallest set of tokens that has this probability together; 1: all.
        min_p: only tokens with this share of the most likely token's probability; 0: all.
        presence_penalty: taken off the logit of every token among the last 64 of prompt and answer.
        frequency_penalty: taken off once for each time that it stands among them.
        seed: the same seed gives the same answer on the same machine; None draws anew each time.
        logit_bias: added to the logits of these token ids.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


def sampling_body(sampling: Sampling) -> dict[str, Any]:
    """The settings as fields of a request to llama.cpp's server."""
    body: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()],
    }
    return body if sampling.seed is None else body | {"seed": sampling.seed % 2**32}
