"""A trainer's engine: attached to the model for a training or a validation, and given back after it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from whet.console import notice
from whet.engine.forward import Engine
from whet.train.engine import engine_for
from whet.train.full import engine_problem
from whet.train.streaming import refusal, stays_in_main_memory

# Who attached an engine to a model last: a trainer that is made anew, in a notebook's cell that runs again, would else
# have the weights in memory twice.
_LAST: MutableMapping[Any, weakref.ReferenceType[Attachment]] = weakref.WeakKeyDictionary()


class Attachment:
    """While an engine is attached the model's weights lie in its buffers; given back, they are the model's own again.

    Args:
        model: gives the user's own model.
        args: transformers' ``TrainingArguments``.
        processes: of the run.

    Attributes:
        engine: None where the model's own forward runs, and while it is given back.
        forward: "engine", or why the model's own forward runs; "" before anything was tried.
    """

    def __init__(self, model: Callable[[], Any], args: Any, processes: int) -> None:
        self._model, self._args, self._processes = model, args, processes
        self.engine: Engine | None = None
        self.forward = ""
        self._given_back = False
        self._in_use = False  # by a training or a validation

    def attach(self) -> None:
        """Try an engine; where there is none a note says why. Another trainer's engine of the model is given back,
        unless that one is training: it attaches again when it is needed.

        Raises:
            ModelError: there is none, and the model's weights are in main memory.
        """
        model, self._given_back = self._model(), False
        last = _LAST.get(model, lambda: None)()
        if last is not None and last is not self and not last._in_use:
            last.give_back()
        _LAST[model] = weakref.ref(self)
        found = engine_for(model, processes=self._processes, full=engine_problem(model, self._args))
        if isinstance(found, Engine):
            self.engine, self.forward = found, "engine"
            return
        if stays_in_main_memory(model):
            raise refusal(found)
        self.forward = f"the model's own: {found}"
        notice(f"the model's own forward is used, not the engine: {found}", key="engine")

    def renew(self) -> None:
        """Before a training: attach again what was given back, or an engine of weights that are not the model's any
        more."""
        if self.engine is not None and self.engine.outdated:
            self.give_back()
        if self._given_back:
            self.attach()
        self._in_use = True

    def give_back(self) -> None:
        """Merge, save and convert the model as usual."""
        self._in_use = False
        if self.engine is not None:
            self.engine.release()
            self.engine, self._given_back = None, True

    @contextmanager
    def for_now(self) -> Iterator[None]:
        """Attached within it if it was given back: a validation after the training computes as those in it did, and
        the same as the reference of preferences."""
        if not self._given_back:
            yield
            return
        forward = self.forward
        self.attach()
        self._in_use = True
        try:
            yield
        finally:
            self.give_back()
            self.forward, self._given_back = forward, True  # of the training, even if there was no engine now
