"""The memory of a full fine-tune before it is run: the optimizer's; all of it where the model's own forward runs."""

from __future__ import annotations

from dataclasses import dataclass

from whet.config.sizes import format_size
from whet.engine.full_memory import FullBytes, full_bytes
from whet.engine.memory import Work
from whet.engine.plan import Goal
from whet.engine.shape import FullTraining, Shape
from whet.engine.trained import WIDE, ParameterBytes
from whet.errors import WhetError
from whet.train.fallback import NEED_BITSANDBYTES
from whet.train.optim import NAMES

BUCKET_BYTES = 2**25 * 16  # masters and float32 gradients that exist at once, and what splits them
LESS_MEMORY = "lower micro_batch_size or sequence_len, set optimizer: adamw_8bit, or train an adapter (lora, qlora)"


@dataclass(frozen=True)
class FullPlan:
    """A full fine-tune's memory where the model's own forward runs.

    Attributes:
        recompute: with gradient checkpointing.
        budget: bytes. reserved: what the allocator takes for an allocated byte.
    """

    bytes: FullBytes
    recompute: bool
    budget: int
    reserved: float

    def reserved_bytes(self, recompute: bool) -> int:
        """What the allocator takes at the highest point."""
        return int(self.bytes.peak(recompute) * self.reserved)

    @property
    def fits(self) -> bool:
        return self.reserved_bytes(self.recompute) <= self.budget

    def facts(self) -> dict[str, str]:
        """Lines of the printed plan."""
        found, chosen = self.bytes, "all layers keep the inputs only" if self.recompute else "all layers keep all"
        facts = {"plan": f"full fine-tuning by the model's own forward; {chosen}", **parameter_facts(found.parameters)}
        for recompute in (False, True):
            name = "peak memory, with gradient checkpointing" if recompute else "peak memory"
            fits = "fits" if self.reserved_bytes(recompute) <= self.budget else "does not fit"
            reserved = format_size(self.reserved_bytes(recompute))
            facts[name] = f"{format_size(found.peak(recompute))}, {reserved} reserved: {fits}"
        return facts | {"time": "not predicted for the model's own forward"}

    def check(self) -> None:
        """Raise where it does not fit.

        Raises:
            WhetError: with what to change.
        """
        if not self.fits:
            raise WhetError(
                f"the run takes {format_size(self.reserved_bytes(self.recompute))}",
                f"at most {format_size(self.budget)}",
                LESS_MEMORY,
            )


def parameter_facts(found: ParameterBytes) -> dict[str, str]:
    """Lines of a printed plan: what belongs to the parameters."""
    facts = {"weights": format_size(found.weights)}
    if found.masters:
        facts["lower half of masters"] = format_size(found.masters)
    return facts | {"moments": format_size(found.moments), "gradients": format_size(found.gradients)}


def plan_full(
    shape: Shape, work: Work, training: FullTraining, goal: Goal, budget: int, reserved: float, on_gpu: bool
) -> FullPlan:
    """What training by the model's own forward will do: checkpointing where it was asked for, and on a GPU where all
    does not fit without.

    Args:
        shape: without adapters.
        work: the largest micro-batch.
        training: by ``full_training``.
        budget, reserved: as in ``FullPlan``.
    """
    found = full_bytes(shape, work, training)
    short = int(found.peak(False) * reserved) > budget
    recompute = goal in ("full", "smallest") or (goal == "fastest" and on_gpu and short)
    return FullPlan(found, recompute, budget, reserved)


def full_training(shape: Shape, optimizer: str, on_gpu: bool) -> FullTraining:
    """What an optimizer takes, by its name.

    Args:
        shape: ``width`` 2 means bfloat16 with float32 masters: one kernel does AdamW's step on a GPU, else a library
            does it on masters that exist for the moment.
    """
    beside = 0
    if shape.width < WIDE:
        by_kernel = on_gpu and optimizer in NAMES
        beside = 0 if by_kernel else min(BUCKET_BYTES, shape.parameters * 16)
    elif on_gpu and optimizer == NAMES[0]:
        beside = shape.parameters * WIDE  # torch's AdamW takes all tensors at once, and makes the roots of all
    exact = "8bit" in optimizer and optimizer in NEED_BITSANDBYTES  # embeddings, as transformers has it
    embedding = moment_bytes(optimizer.replace("8bit", "32bit")) if exact else None
    return FullTraining(moment_bytes(optimizer), beside, embedding)


def moment_bytes(optimizer: str) -> int:
    """Bytes of an optimizer's state for one parameter; what is kept for blocks is left out."""
    if optimizer == "sgd":
        return 0
    one = 1 if "8bit" in optimizer or "4bit" in optimizer else 4
    number = 1 if "lion" in optimizer or "rmsprop" in optimizer or optimizer == "adagrad" else 2
    return one * (number + ("ademamix" in optimizer))
