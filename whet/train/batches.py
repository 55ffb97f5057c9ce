"""The micro-batches that training makes of its rows: how many, how large, how many of their tokens are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from whet.data.answer_loader import AnswerDataset
from whet.data.loader import PackedDataset, PaddedDataset
from whet.engine.memory import Work
from whet.engine.plan import MERGED_TOKENS, Works
from whet.train.preference.reward import RewardDataset


class Batches(NamedTuple):
    """Micro-batches of one pass over the rows.

    Attributes:
        number: how many.
        largest, typical: the largest and the mean one.
        widest: which items of the data set stand in the largest.
        fill: real tokens / tokens with padding.
    """

    number: int
    largest: Work
    typical: Work
    widest: Sequence[int]
    fill: float


def count_merged(
    dataset: PackedDataset | PaddedDataset | AnswerDataset | RewardDataset,
    micro: int,
    accumulation: int,
    seed: int,
    most: int,
) -> dict[int, Batches]:
    """Micro-batches by how many of a step's could go through at once: 1, and divisors of ``accumulation`` up to
    ``most``, as long as the merged ones stay small. Other arguments as of ``count_batches``."""
    alone = count_batches(dataset, micro, accumulation, seed)
    found = {1: alone}
    for times in range(2, min(most, accumulation) + 1):
        if accumulation % times or alone.number < times:
            continue
        more = count_batches(dataset, micro * times, accumulation // times, seed)
        if more.largest.tokens > MERGED_TOKENS:
            break
        found[times] = more._replace(typical=_together(alone.typical, times), fill=alone.fill)
    return found


def works_of(batches: Mapping[int, Batches]) -> dict[int, Works]:
    """What a plan needs to know of them."""
    return {times: Works(found.largest, found.typical) for times, found in batches.items()}


def _together(work: Work, times: int) -> Work:
    """So many micro-batches one after the other, with the padding that they have."""
    tokens, labelled, squares, count, equal, attended = work
    return Work(times * tokens, times * labelled, times * squares, -(-count // times), equal, times * attended)


def count_batches(
    dataset: PackedDataset | PaddedDataset | AnswerDataset | RewardDataset, micro: int, accumulation: int, seed: int
) -> Batches:
    """Count without reading a token.

    Args:
        micro: rows in a micro-batch.
        accumulation: micro-batches in an optimizer step.
        seed: which items meet is drawn in training; one draw stands for all.
    """
    rows, packed = dataset.prepared, not isinstance(dataset, PaddedDataset)
    lengths = rows.lengths.astype(np.float64)
    trained = rows.trained[rows.order].astype(np.float64)
    if isinstance(dataset, RewardDataset):
        trained = np.ones_like(trained)  # a text has one score
    bins = np.arange(len(lengths))[:, None] if isinstance(dataset, PaddedDataset) else dataset.bins
    firsts = np.cumsum([0, *map(len, bins)])[:-1]
    members = np.concatenate(bins)
    whole = np.add.reduceat(lengths[members], firsts)  # what attention looks at
    sizes = whole - dataset.spared if isinstance(dataset, AnswerDataset) else whole
    squares = np.add.reduceat(lengths[members] ** 2, firsts)
    labelled = np.add.reduceat(trained[members], firsts)
    drawn = np.random.default_rng(seed).permutation(len(sizes))
    starts = np.arange(0, len(sizes), micro)
    widths = np.maximum.reduceat(sizes[drawn], starts)
    counts = np.diff([*starts, len(sizes)])
    flat = not isinstance(dataset, PackedDataset | PaddedDataset)  # answers stand in one row, one after the other
    padding = np.zeros_like(sizes) if flat else np.repeat(widths, counts) - sizes[drawn]
    # Packed, padding is a document of its own; else it runs on with its row.
    pairs = float(squares.sum() + (padding**2).sum()) if packed else float((counts * widths**2).sum())
    padded = float(sizes.sum() if flat else (counts * widths).sum())
    count = len(starts)
    widest = int(np.sort(sizes)[-micro:].sum()) if flat else int(sizes.max()) * min(micro, len(sizes))
    most = min(widest, int(np.sort(labelled)[-micro:].sum()))
    times = min(accumulation, count)
    seen = padded + float((whole - sizes).sum())
    equal = pairs == seen * lengths[0] and bool((lengths == lengths[0]).all())
    mean_labelled = float(labelled.sum()) / count
    largest = np.argsort(sizes)[-micro:]
    again = widest + int(max((whole - sizes)[np.argsort(whole)[-micro:]].sum(), (whole - sizes)[largest].sum()))
    return Batches(
        count,
        Work(widest, most, float(again) * lengths.max(), times, equal, again),
        Work(round(padded / count), round(mean_labelled), pairs / count, times, equal, round(seen / count)),
        [int(item) for item in largest],
        float(sizes.sum()) / padded,
    )
