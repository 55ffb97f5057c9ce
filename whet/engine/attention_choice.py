"""Which attention kernel runs for which documents: one table, one rule.

The table is measured (benchmarks/results/engine_attention.json: one H200, torch 2.11, bfloat16, 32 query and 8
key/value heads of 128, causal, 16,384 tokens, forward + backward): cuDNN is up to 1.7 times as fast as
FlashAttention-2, but takes documents of one length at a time and builds a plan of some 0.08 s for each new shape;
FlashAttention-2 takes any lengths at once. cuDNN's own form for several lengths is broken in torch 2.11 (wrong
gradients), flex_attention is slower than both.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

import torch

from whet.engine.documents import Kind, Part, Scores

# TFLOP/s by document length, forward + backward (7 * T * length * H * E operations); linear in between.
RATE_LENGTHS = (256, 1024, 2048, 4096, 16384)
RATES = {"fa2": (90, 199, 253, 282, 317), "cudnn": (131, 333, 428, 491, 527)}
CALL_MS = 0.11  # of one more cuDNN call: launches, and copies into place (``single`` less ``batch`` in that file)
PART_MS = 0.15  # of a FlashAttention-2 call beside others: few documents fill the card badly (its mixed rows)

CUDNN_HEAD = 128  # largest head size of cuDNN's attention before Hopper; above it not measured
FA2_HEAD = 256
KEPT_CHOICES = 256


class Shape(NamedTuple):
    """What the choice depends on, besides lengths and scores."""

    device: str
    short: bool  # bfloat16 or float16, on a card of Ampere's generation or later
    deterministic: bool
    heads: int
    head_dim: int


def parts_of(q_THE: torch.Tensor, lengths: tuple[int, ...], scores: Scores) -> tuple[Part, ...]:
    """The documents in neighbouring parts, each with its kernel."""
    short = q_THE.dtype in (torch.bfloat16, torch.float16) and q_THE.is_cuda and _is_ampere(q_THE.device)
    deterministic = torch.are_deterministic_algorithms_enabled()
    return choose(Shape(q_THE.device.type, short, deterministic, q_THE.shape[1], q_THE.shape[2]), lengths, scores)


@lru_cache(maxsize=KEPT_CHOICES)
def choose(shape: Shape, lengths: tuple[int, ...], scores: Scores) -> tuple[Part, ...]:
    """``parts_of`` without a tensor.

    Softcap and unusual dtypes or head sizes: each document by the plain form. A window that cuts a document, and
    deterministic runs: FlashAttention-2. A batch of equal documents of a ``bucket``'s length: one cuDNN call. Else
    whatever is estimated to be the fastest: one FlashAttention-2 call, a cuDNN call for each document, or that for the
    documents that gain by it, while those between them share FlashAttention-2 calls.
    """
    longest = max(lengths)
    if not shape.short or scores.softcap is not None or shape.head_dim % 8 or shape.head_dim > FA2_HEAD:
        return _joined(["each"] * len(lengths), lengths)
    cut = scores.window is not None and scores.window < longest
    if cut or shape.deterministic or shape.head_dim > CUDNN_HEAD:
        return _joined(["fa2"] * len(lengths), lengths)
    if min(lengths) == longest == bucket(longest):
        return (Part("cudnn", 0, len(lengths), 0, sum(lengths)),)
    return _joined(_kinds(shape, lengths), lengths)


def bucket(length: int) -> int:
    """The length at which cuDNN computes a document: steps of 64 up to 1,024, then eight to each doubling.

    At most 12% more rows; some 55 shapes, 7 s of plans, up to 32,768 tokens.
    """
    step = max(64, (1 << (length - 1).bit_length()) // 16)
    return -(-length // step) * step


def estimated_ms(kind: Kind, shape: Shape, length: int) -> float:
    """Forward and backward of one document among enough others to fill the card, on an H200."""
    computed = bucket(length) if kind == "cudnn" else length
    operations = 7 * computed * computed * shape.heads * shape.head_dim
    return operations / (_rate(RATES[kind], computed) * 1e9)


def _kinds(shape: Shape, lengths: tuple[int, ...]) -> list[Kind]:
    """The kernel of each document; the fewest kinds where two ways cost the same."""
    costs = {
        length: (estimated_ms("fa2", shape, length), estimated_ms("cudnn", shape, length) + CALL_MS)
        for length in set(lengths)
    }
    split: list[Kind] = ["cudnn" if costs[length][1] < costs[length][0] else "fa2" for length in lengths]
    ways: list[list[Kind]] = [["fa2"] * len(lengths), ["cudnn"] * len(lengths), split]

    def cost(kinds: list[Kind]) -> float:
        ms = sum(costs[length][kind == "cudnn"] for kind, length in zip(kinds, lengths, strict=True))
        parts = [part.kind for part in _joined(kinds, lengths)]
        return ms + (PART_MS * parts.count("fa2") if len(parts) > 1 else 0.0)

    return min(ways, key=cost)


def _rate(rates: tuple[int, ...], length: int) -> float:
    at = bisect_right(RATE_LENGTHS, length)
    if at == 0:
        return rates[0] * length / RATE_LENGTHS[0]
    if at == len(rates):
        return rates[-1]
    low, high = RATE_LENGTHS[at - 1], RATE_LENGTHS[at]
    return rates[at - 1] + (rates[at] - rates[at - 1]) * (length - low) / (high - low)


def _joined(kinds: list[Kind], lengths: tuple[int, ...]) -> tuple[Part, ...]:
    """Neighbours of one kind as one part; each document of its own for cuDNN."""
    parts: list[Part] = []
    start = 0
    for index, (kind, length) in enumerate(zip(kinds, lengths, strict=True)):
        if parts and kind != "cudnn" and parts[-1].kind == kind:
            parts[-1] = parts[-1]._replace(last=index + 1, stop=start + length)
        else:
            parts.append(Part(kind, index, index + 1, start, start + length))
        start += length
    return tuple(parts)


@lru_cache(maxsize=16)
def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)
