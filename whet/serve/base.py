"""The model before training, to compare a tuned one with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from whet.errors import ModelError
from whet.export.adapter import run_folder_of
from whet.serve.backends import Backend, Emit, TorchBackend, open_backend
from whet.serve.sampling import Sampling


class WithoutAdapter:
    """The same model in memory with its adapter off; nothing is loaded twice."""

    def __init__(self, tuned: TorchBackend) -> None:
        self._tuned = tuned
        self.context, self.has_template = tuned.context, tuned.has_template

    def prompt(self, messages: Any) -> Any:
        return self._tuned.prompt(messages)

    def stream(self, prompt: Any, max_tokens: int, sampling: Sampling, emit: Emit) -> int:
        with self._tuned.model.disable_adapter():
            return self._tuned.stream(prompt, max_tokens, sampling, emit)


@contextmanager
def open_base(path: str, tuned: Backend, given: str | None) -> Iterator[Backend]:
    """The model that ``tuned`` was before: ``given``, else its base without the adapter, else what its run began with.

    Raises:
        ModelError: nothing says which model that is.
    """
    if given is None and isinstance(tuned, TorchBackend) and hasattr(tuned.model, "disable_adapter"):
        yield WithoutAdapter(tuned)
        return
    name = given or _begun_with(path)
    if name is None:
        raise ModelError(f"nothing says which model {path} was before training", "that model", "add --base PATH")
    with open_backend(name) as base:
        yield base


def _begun_with(path: str) -> str | None:
    run = run_folder_of(path)
    if run is None:
        return None
    settings = yaml.safe_load((run / "config.yml").read_text(encoding="utf-8"))
    named = settings.get("base_model") if isinstance(settings, dict) else None
    return str(Path(named).expanduser()) if named else None
