"""The memory of one training: the engine's plan, or gradient checkpointing of the model's own forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from whet.config.sizes import format_size
from whet.console import notice
from whet.engine.plan import Goal
from whet.errors import TrainingError
from whet.models.recompute import keep_as_many, keep_fewer, kept_layers, recompute
from whet.train.batches import Batches
from whet.train.full_plan import moment_bytes
from whet.train.memory_plan import Planner, probe_peak

SMALL = 4096  # tokens of a micro-batch of the model's own forward: below, launches take longer than products
MASTER_BYTES = 4  # of a bfloat16 weight: the lower half of its master, and the half of its sum of gradients
ROOM = 0.93  # of the budget, where layers fill it: the allocator has gaps, and later nothing can be lowered


class Memory:
    """Settles what is kept for the backward, once, and lowers it at a shortage.

    Args:
        planner: of the engine; None: the model's own forward runs, which keeps everything or, with gradient
            checkpointing, the inputs of its layers.
        model: the user's own.
        batches: by how many micro-batches of a step go through at once.
        budget: bytes.

    Attributes:
        settled: the plan was tried.
    """

    def __init__(
        self, planner: Planner | None, model: Any, batches: Mapping[int, Batches], goal: Goal, budget: int
    ) -> None:
        self.planner, self.model, self.goal, self.budget = planner, model, goal, budget
        self._batches = batches
        self._own_at_once = 1
        self.settled = False

    @property
    def at_once(self) -> int:
        """Micro-batches of a step that go through together; it never grows during a training."""
        return self.planner.plan.at_once if self.planner is not None else self._own_at_once

    @property
    def batches(self) -> Batches:
        """As they go through."""
        return self._batches[self.at_once]

    def merge(self, measure: Callable[[], int | None], before: int, coming: int) -> None:
        """Choose how many small micro-batches the model's own forward takes at once: as many as fit while every layer
        keeps everything, by the memory that one takes.

        Args:
            measure: bytes at the highest point of the largest micro-batch by itself; None: it does not fit.
            before: bytes that are no activations.
            coming: bytes that the optimizer will take.
        """
        alone, small = self._batches[1], self._batches[1].typical.tokens < SMALL
        if self.planner is not None or self.goal != "fastest" or len(self._batches) == 1 or not small:
            return
        peak = measure()
        for times in sorted(self._batches, reverse=True):
            more = self._batches[times].largest.tokens / alone.largest.tokens - 1
            if peak is not None and peak + more * (peak - before) + coming <= ROOM * self.budget:
                self._own_at_once = times
                return

    def settle(self, probe: Callable[[], None] | None, not_yet: bool, moment: int = 8) -> None:
        """Before the first step. On a GPU the choice is tried; on a CPU nobody can tell what was taken.

        Args:
            probe: forward and backward of the largest micro-batch; None: do not try.
            not_yet: the optimizer makes its state at its first step.
            moment: bytes of that state for one parameter; the plan of an engine knows them.
        """
        self.settled = True
        device = next(self.model.parameters()).device
        if self.planner is None and self.goal in ("full", "smallest"):
            recompute(self.model)
        if probe is None or device.type != "cuda":
            return
        if self.planner is not None:
            self.planner.settle(partial(probe_peak, probe, device), self.planner.moments if not_yet else 0)
        elif self.goal == "fastest":
            trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            self._recompute_if_needed(partial(probe_peak, probe, device), moment * trained if not_yet else 0)
            if self.at_once > 1:
                notice(f"memory: all layers keep everything, {self.at_once} micro-batches at once")

    def _recompute_if_needed(self, measure: Callable[[], int | None], coming: int) -> None:
        """Gradient checkpointing of the model's own forward, of as few layers as memory allows.

        Args:
            measure: bytes at the highest point of the largest micro-batch, beside the gradients of earlier ones;
                None: it does not fit.
            coming: bytes that the optimizer will take at its first step.
        """

        def fits(taken: int | None) -> bool:
            return taken is not None and taken + coming <= ROOM * self.budget

        without = measure()
        if not fits(without) and self._own_at_once > 1:
            self._own_at_once = 1
            without = measure()
        if fits(without):
            return
        recompute(self.model)
        kept, layers = keep_as_many(self.model, lambda: fits(measure()))
        taken = f"takes {format_size(without + coming)}" if without else "does not fit"
        which = f"for {layers - kept} of {layers} layers" if kept else "for all layers"
        notice(f"memory: without gradient checkpointing the largest micro-batch {taken}; it is used {which}")

    def facts(self) -> dict[str, Any]:
        """For the manifest: what layers kept, and bytes of a GPU at the highest point."""
        device = next(self.model.parameters()).device
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        if self.planner is None:
            kept, layers = kept_layers(self.model)
            merged = f", {self.at_once} micro-batches at once" if self.at_once > 1 else ""
            told = {"layers_keep": f"{kept} x everything, {layers - kept} x inputs{merged}"} if layers else {}
            return {**told, "peak_bytes": peak}
        plan = self.planner.plan
        return {"layers_keep": str(plan), "planned_peak_bytes": plan.peak_bytes, "peak_bytes": peak}

    def lower(self) -> bool:
        """After a shortage. False where nothing can be given up."""
        if self.planner is not None:
            return self.planner.lower()
        if self._own_at_once > 1:
            self._own_at_once = 1
            notice("out of memory: micro-batches go one by one from now on")
            return True
        if self.goal != "fastest":
            return False
        before, after = keep_fewer(self.model)
        if before == after:
            return False
        notice(f"out of memory: {after} layers keep everything from now on, not {before}")
        return True


def trained_bytes(model: torch.nn.Module, optimizer: str) -> tuple[int, int]:
    """Of what is trained: bytes of its gradients, and what an optimizer of this name will take beside them."""
    trained, each = [p for p in model.parameters() if p.requires_grad], moment_bytes(optimizer)
    coming = sum(p.numel() * (each + (MASTER_BYTES if p.dtype == torch.bfloat16 else 0)) for p in trained)
    return sum(p.numel() * p.element_size() for p in trained), coming


def out_of_memory(error: Exception) -> TrainingError:
    """What to do, in place of what the allocator says."""
    first = str(error).split(". ")[0]
    return TrainingError(
        f"the GPU's memory does not suffice ({first})",
        "a micro-batch that fits",
        "lower micro_batch_size (and raise gradient_accumulation_steps) or sequence_len, use adapter: qlora or "
        "stream_weights: true, or close other programs on the GPU; a run with checkpoints goes on with --resume",
    )
