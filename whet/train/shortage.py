"""A micro-batch that runs out of memory runs again with less kept; what it had added to gradients is taken back."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from whet.train.flat import FlatAdapters
from whet.train.masters import MasterOptimizer

Result = TypeVar("Result")


def again_with_less(
    step: Callable[[], Result], lower: Callable[[], bool], restore: Callable[[], None] | None
) -> Result:
    """``step``, and after each shortage again, as long as something can be given up.

    Args:
        lower: keep less from now on; False where nothing is left to give up.
        restore: bring the gradients back to what they were before ``step``; None: that cannot be done.

    Raises:
        torch.OutOfMemoryError: the last one.
    """
    while True:
        try:
            return step()
        except torch.OutOfMemoryError as error:
            if restore is None:
                raise
            message = str(error)
        gc.collect()  # only now: the error's frames held on to activations, in cycles too
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not lower():
            raise torch.OutOfMemoryError(message)
        restore()


def way_back(
    model: Any, flat: FlatAdapters | None, masters: MasterOptimizer | None, accumulation: int, processes: int
) -> Callable[[], None] | None:
    """Called before a micro-batch: what takes back all that it will have added to gradients.

    Args:
        model: of which weights are trained that neither ``flat`` nor ``masters`` knows.
        accumulation: forward passes in an optimizer step.
        processes: of the run.

    Returns:
        None where gradients of earlier micro-batches cannot be told from those of this one.
    """
    if flat is not None:
        if accumulation == 1:
            return flat.zero
        flat.attach()  # transformers sets gradients to None after each step: the buffer is zero only now
        return partial(flat.restore, flat.gradients.clone())
    if processes > 1:
        return None
    if masters is not None and masters.added is not None:
        return masters.added.again  # told by the trainer of each pass
    if accumulation > 1:
        return None
    return masters.zero_grad if masters is not None else partial(model.zero_grad, set_to_none=True)


def hold_gradients(model: Any, masters: MasterOptimizer | None) -> None:
    """Gradients of zero, as wide as those that earlier micro-batches leave: a probe is to find room beside them."""
    if masters is not None and masters.added is not None:
        masters.added.fill()
        return
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
