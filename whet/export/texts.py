"""What both models read in a proof: probes and held-out rows as token ids, and the places that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.export.heldout import HeldOut
from whet.export.probes import RenderedProbe
from whet.text.encode import IGNORE

PROMPTS = 3  # prompts of probes, and as many of held-out rows, that are answered
PROBES = "whet's probes"


@dataclass(frozen=True)
class Texts:
    """Documents and the places to compare in them.

    Attributes:
        documents: token ids; the probes come first.
        places: for each document the tokens after which the next one's distribution is compared.
        next_P: over all places, the token that stands next and counts for the perplexity; -1 where none does.
        prompts: what is answered at temperature 0.
        what: the texts that the perplexity is of.
    """

    documents: list[list[int]]
    places: list[list[int]]
    next_P: np.ndarray
    prompts: list[list[int]]
    what: str

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(map(len, self.documents))


def texts_of(tokenizer: Any, rendered: Sequence[RenderedProbe], held_out: HeldOut | None, positions: int) -> Texts:
    """Choose the places: half of them in the probes, half where held-out rows are trained; all in the probes without.

    The perplexity is that of the held-out rows, else of the probes.
    """
    probes = [list(tokenizer(probe.text, add_special_tokens=probe.plain)["input_ids"]) for probe in rendered]
    asked = [ids for ids, probe in zip(probes, rendered, strict=True) if probe.messages[-1]["role"] == "user"]
    prompts = asked[:PROMPTS]
    everywhere = [list(range(len(ids))) for ids in probes]
    if held_out is None:
        places = _spread(everywhere, positions)
        return Texts(probes, places, _next(probes, places), prompts, PROBES)
    trained = [_before_trained(labels) for labels in held_out.labels]
    some = _spread(trained, max(1, positions // 2))
    others = _spread(everywhere, max(1, positions - sum(map(len, some))))
    prompts += [ids[: places[0] + 1] for ids, places in zip(held_out.ids, trained, strict=True)][:PROMPTS]
    uncounted = np.full(sum(map(len, others)), -1, dtype=np.int64)
    next_P = np.concatenate([uncounted, _next(held_out.ids, some)])
    return Texts([*probes, *held_out.ids], [*others, *some], next_P, prompts, held_out.what)


def _before_trained(labels: Sequence[int]) -> list[int]:
    """Places whose next token is trained."""
    return [place for place in range(len(labels) - 1) if labels[place + 1] != IGNORE]


def _spread(allowed: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """``count`` of the allowed places of each document, spread evenly over all of them."""
    everywhere = [(which, place) for which, places in enumerate(allowed) for place in places]
    chosen = [everywhere[round(step)] for step in np.linspace(0, len(everywhere) - 1, min(count, len(everywhere)))]
    return [[place for which, place in chosen if which == document] for document in range(len(allowed))]


def _next(documents: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> np.ndarray:
    pairs = zip(documents, places, strict=True)
    return np.array(
        [ids[place + 1] if place + 1 < len(ids) else -1 for ids, chosen in pairs for place in chosen], dtype=np.int64
    )
