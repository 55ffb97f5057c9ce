"""Continues many prompts at once: slots of a static cache, each with a sequence of its own; a slot that ends takes the
next prompt.

It knows token ids, not text. Every sequence gets what it gets alone: bit by bit on a CPU; what holds on a GPU says
docs/generate.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from whet.engine.decode import CPU_ROWS, Decoder
from whet.engine.sampling import Sampler, Sampling
from whet.engine.steps import Steps, slots_for
from whet.errors import DataError, ModelError

MOST_SLOTS = 64
PREFILL_TOKENS = 8192  # of prompts that are read at once on a GPU; a CPU reads one by one
ROOM = 2048  # new tokens that a cache has room for at first; it doubles when it is full
LAG = 1  # steps that a GPU is ahead of the host


class Token(NamedTuple):
    """One new token of a prompt: its number among the prompts, its id, whether the sequence ends with it."""

    prompt: int
    id: int
    last: bool
    logprob: float | None  # of the token under the model's own distribution, in nats; only if asked for


@dataclass(frozen=True)
class Options:
    """How prompts are continued.

    Args:
        max_new_tokens: of every prompt.
        stops: token ids that end a sequence; they are its last token.
        sampling: see ``Sampling``.
        logprobs: whether tokens come with their log-probability.
        slots: sequences at once, at most ``MOST_SLOTS``; fewer where their keys and values do not fit into the memory.
    """

    max_new_tokens: int
    stops: frozenset[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: bool = False
    slots: int = MOST_SLOTS


def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    options: Options,
    on_done: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """The new tokens of every prompt, a stop token included; arguments and errors as of ``stream``.

    Args:
        on_done: called with the number of a prompt whose sequence has ended.
    """
    made: list[list[int]] = [[] for _ in prompts]
    for tokens in stream(decoder, prompts, options):
        for token in tokens:
            made[token.prompt].append(token.id)
            if token.last and on_done is not None:
                on_done(token.prompt)
    return made


def stream(decoder: Decoder, prompts: Sequence[Sequence[int]], options: Options) -> Iterator[list[Token]]:
    """The new tokens as they are made, step by step. Close the iterator to stop early.

    Raises:
        DataError: an empty prompt, or nothing to generate.
        ModelError: keys and values of one sequence do not fit into the memory; see also ``Decoder.length_problem``.
    """
    longest = _check(prompts, options.max_new_tokens, decoder)
    if not prompts:
        return
    yield from _Run(decoder, prompts, options, longest).tokens()


def logits_after(decoder: Decoder, prompt: Sequence[int], most: int) -> Generator[torch.Tensor, int, None]:
    """For a caller that chooses the tokens of one sequence itself: ``next`` gives the logits after the prompt, ``send``
    those after a token. At most ``most`` of them; each is (V,), float32, on the model's device.

    Raises:
        DataError, ModelError: as ``stream``.
    """
    prompt = list(prompt)  # the caller's may grow
    _check([prompt], most, decoder)
    steps, _ = _steps(decoder, 1, len(prompt) + min(most, ROOM), greedy=False)
    with _plain_mode(decoder.device):
        logits_V = decoder.prefill([prompt], [0], steps.cache)[0]
    try:
        for made in range(1, most + 1):
            token = yield logits_V
            if made == most:
                return
            with _plain_mode(decoder.device):
                used = len(prompt) + made
                if used > steps.cache.positions:
                    steps = steps.grown(min(len(prompt) + most, 2 * used))
                steps.begin(0, used - 1, token)
                steps.run(used)
                logits_V = steps.logits_SV[0].clone()
    finally:
        decoder.kept = steps


class _Run:
    """One call of ``stream``."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], options: Options, longest: int) -> None:
        self.decoder, self.prompts, self.options = decoder, prompts, options
        wanted = min(len(prompts), options.slots, MOST_SLOTS)
        self.longest, longest = longest, min(longest, longest - options.max_new_tokens + ROOM)
        self.steps, wanted = _steps(decoder, wanted, longest, greedy=options.sampling.plain)
        slots = self.steps.cache.slots
        self.sampler = Sampler(options.sampling, slots, decoder.spec.vocab, decoder.device)
        self.waiting = deque(range(len(prompts)))
        self.free = deque(range(wanted))
        self.running: dict[int, int] = {}  # slot: prompt
        self.launched = [0] * len(prompts)  # tokens asked for
        self.count = [0] * len(prompts)  # tokens that have come
        self.done = [False] * len(prompts)
        self.pending: deque[_Chosen] = deque()
        self.lag = LAG if decoder.device.type == "cuda" else 0

    def tokens(self) -> Iterator[list[Token]]:
        batches = self._batches()
        while True:
            with _plain_mode(self.decoder.device):  # not around the yield: the caller has modes of its own
                found = next(batches, None)
            if found is None:
                break
            yield found
        self.decoder.kept = self.steps

    def _batches(self) -> Iterator[list[Token]]:
        while self.waiting or self.running or self.pending:
            while self.waiting and self.free:
                self._fill()
            if self.running:
                self._shrink()
                self._step()
            while len(self.pending) > (self.lag if self.running or self.waiting else 0):
                if found := self._read(self.pending.popleft()):
                    yield found

    def _fill(self) -> None:
        """The next prompts into free slots, as many as are read at once."""
        taken: list[tuple[int, int]] = []
        total = 0
        one_by_one = self.decoder.device.type == "cpu"
        while self.waiting and self.free:
            length = len(self.prompts[self.waiting[0]])
            if taken and (one_by_one or total + length > PREFILL_TOKENS):
                break
            taken.append((self.free.popleft(), self.waiting.popleft()))
            total += length
        slots = [slot for slot, _ in taken]
        read = [self.prompts[number] for _, number in taken]
        logits_NV = self.decoder.prefill(read, slots, self.steps.cache)
        for (slot, number), prompt in zip(taken, read, strict=True):
            self.sampler.begin(slot, number, prompt)
        ids_N = self.sampler.choose(logits_NV, slots)
        for row, (slot, number) in enumerate(taken):
            self.steps.begin(slot, len(self.prompts[number]), ids_N[row])
            self.running[slot] = number
        self._chosen(dict(enumerate(slots)), ids_N, logits_NV)

    def _step(self) -> None:
        used = 1 + max(len(self.prompts[number]) + self.launched[number] - 1 for number in self.running.values())
        if used > self.steps.cache.positions:
            self.steps = self.steps.grown(min(self.longest, 2 * used))
        self.steps.run(used)
        if not self.steps.greedy:
            self.steps.ids_S.copy_(self.sampler.choose(self.steps.logits_SV, range(len(self.steps.ids_S))))
        self._chosen({slot: slot for slot in self.running}, self.steps.ids_S, self.steps.logits_SV)

    def _chosen(self, slot_of: dict[int, int], ids_N: torch.Tensor, logits_NV: torch.Tensor) -> None:
        """Notes tokens that are on their way; a sequence that has all its tokens leaves its slot."""
        logprobs_N = None
        if self.options.logprobs:
            logprobs_N = logits_NV.log_softmax(-1).gather(1, ids_N[:, None]).squeeze(1)
        prompts = {row: self.running[slot] for row, slot in slot_of.items()}
        self.pending.append(_Chosen(prompts, ids_N, logprobs_N))
        for slot in slot_of.values():
            number = self.running[slot]
            self.launched[number] += 1
            if self.launched[number] >= self.options.max_new_tokens:
                self._leave(slot)

    def _leave(self, slot: int) -> None:
        del self.running[slot]
        self.free.append(slot)

    def _read(self, chosen: _Chosen) -> list[Token]:
        ids, logprobs = chosen.values()
        found = []
        for row, number in chosen.prompts.items():
            if self.done[number]:
                continue
            token = ids[row]
            self.count[number] += 1
            last = token in self.options.stops or self.count[number] >= self.options.max_new_tokens
            found.append(Token(number, token, last, None if logprobs is None else logprobs[row]))
            if last:
                self.done[number] = True
                for slot in [slot for slot, running in self.running.items() if running == number]:
                    self._leave(slot)
        return found

    def _shrink(self) -> None:
        """On a CPU, where nobody waits and half of the slots are free: the others alone."""
        slots = self.steps.cache.slots
        wanted = -(-len(self.running) // CPU_ROWS) * CPU_ROWS
        if self.decoder.device.type != "cpu" or self.waiting or 2 * wanted > slots:
            return
        used = list(self.running)
        kept = used + [slot for slot in range(slots) if slot not in self.running][: wanted - len(used)]
        self.steps.keep(kept)
        self.sampler.keep(kept)
        self.running = {new: self.running[old] for new, old in enumerate(used)}
        self.free = deque()


def _check(prompts: Sequence[Sequence[int]], most: int, decoder: Decoder) -> int:
    """Tokens of the longest sequence."""
    if most < 1:
        raise DataError(f"max_new_tokens is {most}", "at least 1")
    empty = next((number for number, prompt in enumerate(prompts) if not len(prompt)), None)
    if empty is not None:
        raise DataError(f"prompt {empty} is empty", "at least one token")
    longest = max(map(len, prompts), default=0) + most
    if problem := decoder.length_problem(longest):
        raise ModelError(f"{longest:,} tokens: {problem}", fix="use shorter prompts or model.generate of transformers")
    return longest


@contextmanager
def _plain_mode(device: torch.device) -> Iterator[None]:
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        if device.type == "cuda":
            with torch.cuda.device(device):
                yield
        else:
            yield


class _Chosen:
    """Tokens of a step on their way to the host."""

    def __init__(self, prompts: dict[int, int], ids_N: torch.Tensor, logprobs_N: torch.Tensor | None) -> None:
        self.prompts = prompts
        self._tensors = [_on_host(ids_N), None if logprobs_N is None else _on_host(logprobs_N)]
        self._event = None
        if ids_N.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record()

    def values(self) -> tuple[list[int], list[float] | None]:
        """Ids and log-probabilities, when they have come."""
        if self._event is not None:
            self._event.synchronize()
        ids, logprobs = self._tensors
        assert ids is not None
        return ids.tolist(), None if logprobs is None else logprobs.tolist()


def _on_host(values_N: torch.Tensor) -> torch.Tensor:
    if not values_N.is_cuda:
        return values_N.clone()
    target = torch.empty(values_N.shape, dtype=values_N.dtype, pin_memory=True)
    return target.copy_(values_N, non_blocking=True)


def _steps(decoder: Decoder, wanted: int, positions: int, *, greedy: bool) -> tuple[Steps, int]:
    """The decoder's last state, if nobody uses it and it fits (its memory is given back otherwise), or a new one; and
    how many sequences it takes at once."""
    kept, decoder.kept = decoder.kept, None
    slots = slots_for(wanted, decoder.device)
    if isinstance(kept, Steps) and kept.fits(slots, positions, greedy=greedy):
        return kept, wanted
    del kept
    while True:
        try:
            return Steps(decoder, slots, positions, greedy=greedy), min(wanted, slots)
        except ModelError:
            if slots == 1:
                raise
        slots = slots_for(slots // 2, decoder.device)
