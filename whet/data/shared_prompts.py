"""How much of a pair's two texts is one prompt: tokens that are computed once for both answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from whet.data.prepared import Prepared
from whet.text.encode import IGNORE


class Shared(NamedTuple):
    """Of the pairs of a set.

    Attributes:
        tokens: of each pair how many first tokens both texts share and compute once, int64.
        differing: pairs whose texts differ before their answers begin, so that less than the prompt is shared.
    """

    tokens: np.ndarray
    differing: int


def shared_prompts(prepared: Prepared, size: int) -> Shared:
    """What the neighbours of ``prepared`` share, ``size`` 2: pairs; 1: nothing.

    The token before the first answer token predicts it, and so it stands in both texts: two answers begin differently.
    Nothing before it may be trained. Templates may write a prompt in two ways, by what follows: then only what is the
    same is shared.
    """
    count = len(prepared) // size
    tokens, differing = np.zeros(count, dtype=np.int64), 0
    if size != 2:
        return Shared(tokens, 0)
    for number in range(count):
        (chosen, labels), (rejected, others) = (prepared.row(2 * number + place) for place in (0, 1))
        wanted = min(_first_label(labels), _first_label(others)) - 1
        same = chosen[:wanted] == rejected[:wanted]
        tokens[number] = len(same) if same.all() else int(same.argmin())
        differing += tokens[number] < wanted
    return Shared(tokens, differing)


def _first_label(labels_T: np.ndarray) -> int:
    """The first trained token that another one predicts; what comes before it is the prompt."""
    return 1 + int((labels_T[1:] != IGNORE).argmax())
