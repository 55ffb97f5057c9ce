"""What a run keeps for its backward: chosen by the plan, tried on the largest micro-batch, lowered where memory ends.

The plan counts bytes (``engine/memory.py``). What it cannot know, such as other tensors of the model, fragments and
another program on the card, is seen by one probe: forward and backward of the largest micro-batch before the first
step. Where the probe takes more than was predicted, the plan is made again with that much less.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from whet import runtime
from whet.config.sizes import format_size
from whet.console import notice
from whet.engine.forward import Engine
from whet.engine.lora import base_of
from whet.engine.memory import fixed_bytes, main_memory_bytes
from whet.engine.plan import Goal, Plan, choose_merged
from whet.engine.rates import H200, CardRates, card_of, measure
from whet.engine.shape import Shape, Storage, shape_of_model
from whet.engine.storage import Nf4
from whet.engine.streamed import Streamed
from whet.engine.trained import LOW, WIDE, ParameterBytes
from whet.engine.weights import PAD
from whet.errors import WhetError
from whet.main_memory import free_main_memory
from whet.train.batches import Batches, works_of
from whet.train.full_plan import full_training, moment_bytes
from whet.train.optim import NAMES

SPARE = 512 * 2**20  # bytes of a GPU left to libraries that allocate beside torch
CPU_SHARE = 0.8  # of the free memory: the data and the tokenizer need some too
PROBES = 4
AMPLE = 0.6  # a plan of this share of the budget needs no probe
STEP_DOWN = 0.05  # after each shortage, share of what the plan in force needs


@dataclass(frozen=True)
class Wish:
    """What the user asked of memory.

    Attributes:
        goal: None: what the model or the arguments say, else the fastest plan that fits.
        max_memory: bytes that training may reserve; None: what is free.
    """

    goal: Goal | None = None
    max_memory: int | None = None


FASTEST = Wish()


class Planner:
    """Chooses the policies of an engine, and lowers them.

    Args:
        batches: of the training data, by how many micro-batches of a step go through at once; 1 is among them.
        budget: bytes that this process may hold on the device.
        optimizer: its name, for weights that are trained themselves.

    Attributes:
        plan: the one in force.
        measured: bytes allocated at the highest point of the last probe, dense copies left out; None: not probed.
    """

    def __init__(
        self, engine: Engine, batches: Mapping[int, Batches], goal: Goal, budget: int, optimizer: str = NAMES[0]
    ) -> None:
        self.engine, self.goal, self.budget = engine, goal, budget
        self._batches = dict(batches)
        self.shape = shape_of_engine(engine, optimizer)
        self.card = _card(engine)
        passes = self._batches[1].largest.micro_batches
        self._beside = bytes_beside(engine, self.shape, optimizer, passes)
        self.missing = self._beside.fixed + self._beside.gradients  # bytes that the plan does not know of
        self.measured: int | None = None
        self.plan = self._choose(self._batches)
        self._apply(resident=False)

    def settle(self, measure: Callable[[], int | None], not_yet: int = 0) -> None:
        """Try the plan on the largest micro-batch, correct it, and take the memory for dense copies of weights.

        Args:
            measure: bytes allocated at the highest point of a forward and backward of the largest micro-batch; None
                where memory did not suffice.
            not_yet: bytes of the plan that are allocated after the probe only (an optimizer's state).

        Where memory is ample the first step comes without a probe. A probe does not see the copy of the adapters'
        gradients that is made before each of several passes (``shortage.py``).
        """
        for _ in range(0 if self.plan.reserved_bytes <= AMPLE * self.budget else PROBES):
            self.measured = measure()
            tried = self.plan
            if self.measured is None:
                if not self._lower(copies=False):
                    break
            else:
                over = self.measured + not_yet + self._copies() - (tried.peak_bytes - tried.resident_bytes)
                self.missing = max(self.missing, over)
                self.plan = self._choose(self._smaller())
                if _kept(self.plan)[:-1] == _kept(tried)[:-1]:
                    break
            self._apply(resident=False)
        self._apply(resident=True)
        notice(f"memory plan: {self}")

    def lower(self) -> bool:
        """After a shortage of memory: keep less. False where nothing is left to give up."""
        at_once = self.plan.at_once
        if not self._lower():
            return False
        self._apply(resident=True)
        what = "fewer micro-batches go at once" if self.plan.at_once < at_once else "layers keep less"
        notice(f"out of memory: {what} from now on: {self.plan}")
        return True

    @property
    def batches(self) -> Batches:
        """As they go through with the plan in force."""
        return self._batches[self.plan.at_once]

    def __str__(self) -> str:
        measured = f", {format_size(self.measured)} measured without dense copies" if self.measured else ""
        streamed = main_memory_bytes(self.shape)
        kept = (
            f"{self.plan}, weights streamed from {format_size(streamed)} of main memory" if streamed else f"{self.plan}"
        )
        return f"{kept}; peak {format_size(self.plan.peak_bytes)} of {format_size(self.budget)}{measured}"

    @property
    def moments(self) -> int:
        """Bytes of the optimizer's state."""
        return fixed_bytes(self.shape, 1)["moments"] + self._beside.moments

    def _copies(self) -> int:
        """Bytes of gradients that are copied before each pass of the plan in force."""
        passes = self.batches.largest.micro_batches
        return fixed_bytes(self.shape, 1, passes=passes)["gradients before a pass"]

    def _lower(self, copies: bool = True) -> bool:
        """The fastest plan for less memory than now: layers keep less, or fewer micro-batches go at once.

        Args:
            copies: the dense copies of the plan were there as well: it is less to go without.
        """
        decided, failed = (None if copies else -1), self.plan.reserved_bytes
        before = _kept(self.plan)[:decided]
        if not copies:
            failed -= int(self.plan.resident_bytes * self.card.reserved)
        self.missing = max(self.missing, self.budget - failed)  # there was less than it needs, whatever the budget is
        while self.missing < self.budget:
            self.missing += max(int(STEP_DOWN * failed), 1)
            self.plan = self._choose(self._smaller())
            if _kept(self.plan)[:decided] != before:
                return True
        return False

    def _smaller(self) -> dict[int, Batches]:
        """Micro-batches that never go through more at once than they do now."""
        return {times: found for times, found in self._batches.items() if times <= self.plan.at_once}

    def _choose(self, batches: Mapping[int, Batches]) -> Plan:
        room = max(1, self.budget - self.missing)
        return choose_merged(self.shape, works_of(batches), room, self.card, self.goal)

    def _apply(self, resident: bool) -> None:
        engine, plan = self.engine, self.plan
        engine.policies, engine.tile, engine.chunk_rows = list(plan.policies), plan.tile, plan.chunk_rows  # type: ignore[arg-type]
        engine.set_resident(plan.resident if resident else [False] * len(plan.resident))


def _kept(plan: Plan) -> tuple[Any, ...]:
    """What a plan decides, dense copies last."""
    return plan.at_once, plan.policies, plan.tile, plan.chunk_rows, plan.resident


def shape_of_engine(engine: Engine, optimizer: str = NAMES[0]) -> Shape:
    """The numbers that memory depends on, of a model as it is loaded.

    Args:
        optimizer: its name, for weights that are trained themselves.
    """
    kinds = {type(group.storage) for layer in engine.layers for group in layer.groups}
    storage: Storage = "nf4" if Nf4 in kinds else "streamed" if Streamed in kinds else "dense"
    device, width = _device(engine), base_of(engine.spec.embed).weight.dtype.itemsize
    pad = PAD.get(device.type, PAD["cuda"])
    shape = shape_of_model(engine.spec, storage=storage, width=width, pad=pad)
    if shape.full is None:
        return shape
    return replace(shape, full=full_training(shape, optimizer, device.type == "cuda"))


def bytes_beside(engine: Engine, shape: Shape, optimizer: str, passes: int) -> ParameterBytes:
    """Masters, moments and gradients of weights that are trained although the plan takes the model's for frozen: of
    the last layers, say, or of embedding and head; and weights of these two beside the model's (``modules_to_save``).

    Args:
        passes: forward passes in an optimizer step.
    """
    ends = [weight for module in (engine.spec.embed, engine.spec.head) for weight in module.parameters()]
    found = [*ends, engine.spec.final_norm]
    for layer in engine.layers:
        found += [*layer.norms.values(), *(p for group in layer.groups if group.trained for p in group.parameters)]
    trained = {p for p in found if p.requires_grad} if shape.full is None else set()
    masters = sum(LOW * p.numel() for p in trained if p.element_size() < WIDE)
    gradients = sum(p.numel() * (WIDE if passes > 1 else p.element_size()) for p in trained)
    held = sum({weight.data_ptr(): weight.nbytes for weight in ends}.values()) if trained else 0
    copies = max(0, held - shape.tables * shape.vocab * shape.hidden * shape.width)
    return ParameterBytes(copies, masters, sum(map(torch.numel, trained)) * moment_bytes(optimizer), gradients)


def memory_budget(device: torch.device, asked: int | None) -> int:
    """Bytes that this process may hold on the device, what it holds already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        here = free + torch.cuda.memory_reserved(device) - SPARE
    else:
        here = int(CPU_SHARE * free_main_memory()) + psutil.Process().memory_info().rss
    return min(asked, here) if asked else here


def check_main_memory(needed: int, free: int) -> None:
    """Whether the page-locked memory of streamed weights is there: unlike other memory it is never swapped out.

    Raises:
        WhetError: it is not.
    """
    if needed > CPU_SHARE * free:
        raise WhetError(
            f"stream_weights keeps the layers' weights in {format_size(needed)} of main memory, page-locked",
            f"at most {format_size(CPU_SHARE * free)}: {100 * CPU_SHARE:.0f}% of what is free",
            "use adapter: qlora, a smaller model or a machine with more memory",
        )


@contextmanager
def memory_limit(device: torch.device, asked: int | None) -> Iterator[None]:
    """torch's allocator keeps to the bytes that were asked for, so that no more is reserved than was planned."""
    if asked is None or device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(min(1.0, asked / torch.cuda.mem_get_info(device)[1]), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def probe_peak(probe: Callable[[], None], device: torch.device) -> int | None:
    """Bytes of a GPU allocated at the highest point of ``probe``; None where memory does not suffice."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.random.fork_rng(devices=[device]):
            probe()
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        short = True
    else:
        short = False
    if short:  # the error held on to tensors, in cycles too; a probe that went through leaves none
        gc.collect()
    torch.cuda.empty_cache()
    if short:
        return None
    return torch.cuda.max_memory_allocated(device)


def _device(engine: Engine) -> torch.device:
    device: torch.device = base_of(engine.spec.embed).weight.device
    return device


def _card(engine: Engine) -> CardRates:
    """Rates for the choice; which plan is fastest hardly depends on them, so that nothing is timed on a CPU."""
    device = _device(engine)
    if device.type != "cuda":
        return replace(H200, name="CPU", layer_host=0.0, step_host=0.0, reserved=1.0, source="as an H200's")
    name, memory = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1]
    return card_of(name, memory) or measure(device, name, memory, runtime.weight_dtype().dtype)
