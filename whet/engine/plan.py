"""What each layer keeps for its backward: the fastest choice that fits into a number of bytes.

Layers that keep least come first: the last layers' activations are freed first, so what they keep is gone by the time
the first layers need working space. Every split of the layers into runs of policies is tried, with the exact bytes of
``memory.py`` and the seconds of ``rates.py``; what is left over holds dense copies of NF4 layers, which buy eight times
less time for a byte (0.4 ms for 445 MB against 6.3 ms for 940 MB at 16,384 tokens). Where working space is what does
not fit, the MLP goes through in tiles, unless its weights are trained: their gradients would be rounded tile by tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from whet.engine.memory import POLICIES, Work, buffer_bytes, fixed_bytes, layers_peak
from whet.engine.rates import TILE_LOSS, CardRates, head_seconds, layer_seconds, optimizer_seconds, tile_seconds
from whet.engine.shape import Shape
from whet.engine.trained import embedding_bytes, update_bytes

Goal = Literal["fastest", "smallest", "none", "mlp", "full"]
CHUNKS = (
    1024,
    512,
    256,
)  # rows of logits at once; 1,024 to 8,192 are equally fast on an H200, less is for tight memory
TILES = (None, *TILE_LOSS)  # rows of the MLP at once
NEAR = 1.01  # "smallest" is the fastest within 1% of the least memory; of numbers at once the least within 1% of time
MERGED_TOKENS = 16384  # at most in a merged micro-batch: products reach their rate far below (docs/engine.md)
GAIN = 1.03  # what merging has to buy: predictions are right within 3%


@dataclass(frozen=True)
class Alternative:
    """What another choice would cost."""

    name: str
    peak_bytes: int
    reserved_bytes: int
    step_seconds: float
    tokens_per_second: float
    fits: bool


@dataclass(frozen=True)
class Plan:
    """A choice for every layer, and what it is expected to cost.

    Attributes:
        policies, resident: of each layer, the first layer's first.
        chunk_rows: rows of logits that exist at once.
        tile: rows of the MLP at once, in layers that make it again; None: all.
        peak_bytes: allocated at the highest point; resident_bytes of it are dense copies of NF4 weights.
        reserved_bytes: what the allocator takes for it.
        step_seconds: of an optimizer step. tokens_per_second: padding counted.
        fits: ``reserved_bytes`` is within the budget; a plan that does not fit is the smallest there is.
        at_once: micro-batches of a step that go through together.
        layers_bytes: allocated at the highest point of layers and loss. Less than ``peak_bytes`` where that is reached
            later, when gradients of all weights are there.
    """

    policies: tuple[str, ...]
    resident: tuple[bool, ...]
    chunk_rows: int
    tile: int | None
    peak_bytes: int
    reserved_bytes: int
    step_seconds: float
    tokens_per_second: float
    fits: bool
    resident_bytes: int = 0
    alternatives: tuple[Alternative, ...] = field(default=())
    at_once: int = 1
    layers_bytes: int = 0

    def __str__(self) -> str:
        """``20 x full, 12 x mlp``: the first layers first."""
        runs: list[tuple[str, int]] = []
        for policy in self.policies:
            same = bool(runs) and runs[-1][0] == policy
            runs = [*runs[:-1], (policy, runs[-1][1] + 1)] if same else [*runs, (policy, 1)]
        kept = f", {sum(self.resident)} layers dequantised once" if any(self.resident) else ""
        tiled = f", MLP in tiles of {self.tile:,} tokens" if self.tile else ""
        merged = f", {self.at_once} micro-batches at once" if self.at_once > 1 else ""
        return ", ".join(f"{count} x {policy}" for policy, count in runs) + kept + tiled + merged


def policy_for(asked: bool | str | None) -> Goal:
    """The goal that a value of ``use_gradient_checkpointing`` means.

    Args:
        asked: True: every layer is computed again. False: none is. "unsloth": the least memory. "auto" or None: the
            fastest that fits. A goal stands for itself.

    Raises:
        ValueError: another value.
    """
    if isinstance(asked, bool):
        return "full" if asked else "none"
    if asked in (None, "auto"):
        return "fastest"
    if asked == "unsloth":
        return "smallest"
    for goal in get_args(Goal):
        if asked == goal:
            return goal
    raise ValueError(f'use_gradient_checkpointing is {asked!r}: give True, False, "unsloth" or "auto"')


def choose(
    shape: Shape, work: Work, budget: int, card: CardRates, goal: Goal = "fastest", typical: Work | None = None
) -> Plan:
    """The plan for a goal within ``budget`` bytes, and beside it what the other goals would cost.

    Args:
        work: the largest micro-batch; it has to fit.
        budget: bytes that the allocator may reserve.
        typical: the mean micro-batch, for the time; None: ``work``.
        goal: a policy's name: all layers have it, whether or not it fits.

    Raises:
        ValueError: an empty micro-batch.
    """
    if work.tokens < 1:
        raise ValueError("a plan needs a micro-batch of at least one token")
    names: tuple[Goal, ...] = ("smallest", "fastest", "full", "mlp", "none")
    case = _Case(shape, work, typical or work, budget, card)
    plans = {name: _best(case, name) for name in names}
    others = tuple(_alternative(name, plan) for name, plan in plans.items() if name != goal)
    return replace(plans[goal], alternatives=others)


class Works(NamedTuple):
    """The largest and the mean micro-batch."""

    largest: Work
    typical: Work


def choose_merged(
    shape: Shape, works: Mapping[int, Works], budget: int, card: CardRates, goal: Goal = "fastest"
) -> Plan:
    """As ``choose``, and how many micro-batches of a step go through at once.

    Small micro-batches leave a GPU waiting for its host, and NF4 weights are dequantised for each. Only the goal
    "fastest" merges, only where the plan still fits and saves 3% of the time: what layers then make again, because the
    larger micro-batch leaves less room, is counted. Other goals are about memory and take micro-batches as they are,
    and a CPU has no host. Where micro-batches one by one do not fit, those that do, or else those that take least, go
    together: gradients of weights that are trained themselves are summed in float32 over several passes, and one pass
    takes less.

    Args:
        works: by how many micro-batches are one; 1 is among them.

    Raises:
        ValueError: an empty micro-batch.
    """
    plans = {
        times: replace(choose(shape, work.largest, budget, card, goal, work.typical), at_once=times)
        for times, work in works.items()
        if times == 1 or (goal == "fastest" and card.layer_host and work.largest.tokens <= MERGED_TOKENS)
    }
    alone = plans[1]
    most = alone.step_seconds / GAIN if alone.fits else math.inf
    better = [plan for plan in plans.values() if plan.fits and plan.step_seconds <= most]
    if not better:
        return alone if alone.fits else replace(_least(plans.values()), alternatives=alone.alternatives)
    best = min(plan.step_seconds for plan in better)
    chosen = min((plan for plan in better if plan.step_seconds <= NEAR * best), key=lambda plan: plan.at_once)
    return replace(chosen, alternatives=alone.alternatives)


class _Case(NamedTuple):
    """What a plan is made for."""

    shape: Shape
    work: Work
    typical: Work
    budget: int
    card: CardRates


def _best(case: _Case, goal: Goal) -> Plan:
    plans = list(_candidates(case, goal))
    fitting = [plan for plan in plans if plan.fits]
    if goal != "smallest" and not fitting:
        return _least(plans)
    if goal == "smallest":
        least = min(plan.peak_bytes for plan in plans)
        fitting = [plan for plan in plans if plan.peak_bytes <= NEAR * least]
    return min(fitting, key=_slowness)


def _least(plans: Iterable[Plan]) -> Plan:
    """The least memory; where that is none of the layers', those that keep least: what they kept leaves gaps."""
    return min(plans, key=lambda plan: (plan.peak_bytes, plan.layers_bytes, *_slowness(plan)))


def _slowness(plan: Plan) -> tuple[float, int, int]:
    return plan.step_seconds, -plan.chunk_rows, plan.peak_bytes


def _candidates(case: _Case, goal: Goal) -> Iterator[Plan]:
    """Every split of the layers among the policies, with and without tiles; smaller chunks of logits only where nothing
    fits."""
    policies = POLICIES[::-1] if goal in ("fastest", "smallest") else (goal,)
    tiled = policies != ("none",) and case.shape.full is None
    tiles = [tile for tile in TILES if tile is None or (tiled and tile < case.work.tokens)]
    for chunk_rows in CHUNKS:
        splits = _splits(case.shape.layers, policies)
        found = [
            _plan(case, split, chunk_rows, tile, dense_copies=goal == "fastest")
            for split in splits
            for tile in (tiles if set(split) != {"none"} else tiles[:1])
        ]
        yield from found
        if goal != "smallest" and any(plan.fits for plan in found):
            return


def _plan(case: _Case, policies: tuple[str, ...], chunk_rows: int, tile: int | None, dense_copies: bool) -> Plan:
    shape, work, card = case.shape, case.work, case.card
    fixed, layers = _fixed(shape, work, 0), layers_peak(shape, work, policies, chunk_rows, tile)
    peak = fixed + max(layers, _ends(shape, work))
    resident = copies = 0
    if dense_copies and shape.storage == "nf4":
        room = int(case.budget / card.reserved) - peak
        all_of_them = _fixed(shape, work, shape.layers) - fixed  # the shared buffers are then not needed
        some = min(shape.layers - 1, max(0, room // buffer_bytes(shape)))
        resident = shape.layers if room >= all_of_them else some
        copies = _fixed(shape, work, resident) - fixed
        peak += copies
    seconds = step_seconds(shape, case.typical, card, policies, resident, tile)
    reserved = int(peak * card.reserved)
    return Plan(
        policies=policies,
        resident=tuple(number < resident for number in range(shape.layers)),
        chunk_rows=chunk_rows,
        tile=tile,
        peak_bytes=peak,
        reserved_bytes=reserved,
        step_seconds=seconds,
        tokens_per_second=case.typical.tokens * case.typical.micro_batches / seconds,
        fits=reserved <= case.budget,
        resident_bytes=copies,
        layers_bytes=fixed + layers,
    )


def step_seconds(
    shape: Shape,
    work: Work,
    card: CardRates,
    policies: tuple[str, ...],
    resident: int = 0,
    tile: int | None = None,
) -> float:
    """Seconds of an optimizer step.

    Args:
        resident: NF4 layers with a dense copy.
        tile: rows of the MLP at once.
    """
    *first, last = policies
    seconds = sum(first.count(policy) * _layer(shape, work, card, policy, False, False) for policy in set(first))
    gained = _layer(shape, work, card, last, False, False) - _layer(shape, work, card, last, True, False)
    seconds += _layer(shape, work, card, last, False, True) - resident * gained
    seconds += head_seconds(shape, work, card)
    if tile is not None and tile < work.tokens:
        seconds += (len(policies) - policies.count("none")) * tile_seconds(shape, work, card, tile)
    return seconds * work.micro_batches + optimizer_seconds(shape, card, work.micro_batches)


def _splits(layers: int, policies: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All ways to give the first layers the first policy, the next ones the second, and so on."""
    if len(policies) == 1:
        yield policies * layers
        return
    for count in range(layers + 1):
        for rest in _splits(layers - count, policies[1:]):
            yield policies[:1] * count + rest


@lru_cache(maxsize=64)
def _layer(shape: Shape, work: Work, card: CardRates, policy: str, resident: bool, last: bool) -> float:
    return layer_seconds(shape, work, card, policy, resident, last)


@lru_cache(maxsize=256)
def _fixed(shape: Shape, work: Work, resident: int) -> int:
    return sum(fixed_bytes(shape, work.tokens, resident, work.micro_batches).values())


@lru_cache(maxsize=256)
def _ends(shape: Shape, work: Work) -> int:
    return max(embedding_bytes(shape, work.tokens, work.micro_batches), update_bytes(shape, work.micro_batches))


def _alternative(name: str, plan: Plan) -> Alternative:
    return Alternative(name, plan.peak_bytes, plan.reserved_bytes, plan.step_seconds, plan.tokens_per_second, plan.fits)
