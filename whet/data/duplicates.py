"""Texts that are nearly the same: does a validation row stand, a little changed, among the training rows?

Each text becomes the set of its five-byte pieces (after case and white space are evened out), each piece a hash. A set
is known by its smallest hashes, a bottom-k sketch (Broder 1997, "On the resemblance and containment of documents"):
the share of common hashes among the smallest of both sets estimates their Jaccard similarity. Only the held texts (the
validation rows) stay in memory, as sketches; any number of other texts can go past them.

Pieces that very many texts have come from a prompt's frame ("### Instruction:"). They say nothing about a row and are
left out: the first texts are looked at to find them.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import NamedTuple

import numpy as np

PIECE = 5  # bytes
SKETCH = 128  # hashes of a sketch: the estimate's standard error is at most 0.045
KEYS = 16  # smallest hashes by which a text is found
SHARED_KEYS = 0.55  # of them, so that a pair is compared: misses 1% of pairs of similarity 0.8, 0.1% of 0.9
FEWEST_PIECES = 20  # shorter texts are not judged: too little to be similar in
CROWDED = 200  # holders of one key: more say nothing
FIRST_TEXTS = 1000  # texts that are looked at for pieces of the frame
COMMON_SHARE, COMMON_COUNT = 0.2, 5  # of these texts, at least: a piece of the frame

_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], dtype=np.uint64)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(32)
Hashes = np.ndarray  # of uint64, sorted, each once


class Match(NamedTuple):
    """A held text and the most similar of the others: their numbers as given, and the estimated Jaccard similarity."""

    held: int
    other: int
    similarity: float


class NearDuplicates:
    """Hold some texts, then let others go past: ``finish`` says which held texts have a near duplicate.

    Args:
        threshold: similarity from which two texts count as nearly the same, 0 to 1.
        most: texts that are held at most, about 1 KB each; later ones are counted in ``not_held``.
    """

    def __init__(self, threshold: float = 0.8, most: int = 50_000) -> None:
        self.threshold, self.most = threshold, most
        self.not_held = 0
        self._sketches: dict[int, Hashes] = {}
        self._by_key: dict[int, list[int]] = {}
        self._best: dict[int, Match] = {}
        self._waiting: list[tuple[bool, int, Hashes]] = []
        self._common: Hashes | None = None

    def hold(self, number: int, text: str) -> None:
        """Remember a text under a number. All texts are held before the first one is compared."""
        if len(self._sketches) + len(self._waiting) >= self.most:
            self.not_held += 1
        else:
            self._take(True, number, text)

    def compare(self, number: int, text: str) -> None:
        """Let a text go past the held ones."""
        if self._sketches or self._waiting:
            self._take(False, number, text)

    def finish(self) -> list[Match]:
        """For each held text that has a near duplicate the nearest one, in the order of the held texts."""
        self._learn()
        return [self._best[number] for number in sorted(self._best)]

    def _take(self, held: bool, number: int, text: str) -> None:
        found = pieces(text)
        if self._common is None:
            self._waiting.append((held, number, found))
            if len(self._waiting) >= FIRST_TEXTS:
                self._learn()
        else:
            self._place(held, number, found)

    def _learn(self) -> None:
        """Settle what belongs to the frame, and place the texts that have waited for that."""
        if self._common is None:
            counts: Counter[int] = Counter()
            for _, _, found in self._waiting:
                counts.update(found.tolist())
            least = max(COMMON_COUNT, COMMON_SHARE * len(self._waiting))
            self._common = np.array(sorted(h for h, n in counts.items() if n >= least), dtype=np.uint64)
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            self._place(*item)

    def _place(self, held: bool, number: int, found: Hashes) -> None:
        assert self._common is not None
        own = _without(found, self._common)
        if len(own) < FEWEST_PIECES:
            return
        sketch = own[:SKETCH]
        if held:
            self._sketches[number] = sketch.copy()
            for key in sketch[:KEYS].tolist():
                self._by_key.setdefault(key, []).append(number)
        else:
            self._search(number, sketch)

    def _search(self, number: int, sketch: Hashes) -> None:
        for candidate in self._candidates(sketch[:KEYS]):
            likeness = similarity(sketch, self._sketches[candidate])
            best = self._best.get(candidate)
            if likeness >= self.threshold and (best is None or likeness > best.similarity):
                self._best[candidate] = Match(candidate, number, likeness)

    def _candidates(self, keys: Hashes) -> list[int]:
        """Held texts that share enough of the keys."""
        holders = [self._by_key.get(key, ()) for key in keys.tolist()]
        usable = [found for found in holders if len(found) <= CROWDED]
        flat = np.fromiter(chain.from_iterable(usable), np.int64)
        if not len(flat):
            return []
        numbers, votes = np.unique(flat, return_counts=True)
        found: list[int] = numbers[votes >= max(2, SHARED_KEYS * len(usable))].tolist()
        return found


def pieces(text: str) -> Hashes:
    """The hashes of a text's five-byte pieces, sorted, each once; empty for texts of less than five bytes."""
    even = " ".join(text.casefold().split()).encode("utf-8", "replace")
    if len(even) < PIECE:
        return np.empty(0, dtype=np.uint64)
    codes = np.frombuffer(even, dtype=np.uint8).astype(np.uint64)
    count = len(codes) - PIECE + 1
    sums = np.zeros(count, dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        sums += (codes[place : place + count] + np.uint64(1)) * factor
    mixed = (sums ^ (sums >> _HALF)) * _MIX
    return _once(mixed ^ (mixed >> _HALF))


def similarity(one: Hashes, other: Hashes) -> float:
    """The Jaccard similarity of two sets, estimated from their sketches; exact for sets that fit into one."""
    if not len(one) or not len(other):
        return 0.0
    both = np.sort(np.concatenate([one, other]))
    twice = both[1:] == both[:-1]
    firsts = np.flatnonzero(np.append(True, ~twice))[:SKETCH]  # where each hash of the union begins
    return float(np.append(twice, False)[firsts].mean())


def _once(hashes: Hashes) -> Hashes:
    """Sorted, each once; faster than ``numpy.unique`` for a few hundred."""
    hashes.sort()
    return hashes[np.append(True, hashes[1:] != hashes[:-1])]


def _without(hashes: Hashes, others: Hashes) -> Hashes:
    """``hashes`` that are not among the sorted ``others``."""
    if not len(others):
        return hashes
    places = np.minimum(np.searchsorted(others, hashes), len(others) - 1)
    return hashes[others[places] != hashes]
