"""A model in a running Ollama (its docs/api.md, ``POST /api/chat``), which writes the prompt with its own template."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from whet.errors import ModelError
from whet.export.ollama import OllamaClient
from whet.serve.sampling import Sampling

PREFIX = "ollama:"


class OllamaBackend:
    """A model by its name in Ollama.

    Attributes:
        context: None: Ollama says nothing of a prompt that it shortens.

    Raises:
        ModelError: no Ollama answers, or it has no such model.
    """

    has_template = True

    def __init__(self, name: str, client: OllamaClient | None = None) -> None:
        self._client = OllamaClient() if client is None else client
        self._name = name
        self.context: int | None = None
        if self._client.version() is None:
            raise ModelError(f"no Ollama answers at {self._client.address}", fix="whet ollama serve starts one")
        known = self._client.models()
        if name not in known and f"{name}:latest" not in known:
            raise ModelError(f"Ollama has no model {name!r}", f"one of {', '.join(known) or 'none'}", "check the name")

    def prompt(self, messages: Any) -> Any:
        """The messages themselves."""
        return [dict(message) for message in messages]

    def stream(self, prompt: Any, max_tokens: int, sampling: Sampling, emit: Callable[[str], None]) -> int:
        """As of every backend; where the answer is stopped the connection closes, and Ollama stops too."""
        options = {
            "num_predict": max_tokens,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
        }
        if sampling.seed is not None:
            options["seed"] = sampling.seed
        body = {"model": self._name, "messages": prompt, "options": options, "stream": True}
        made = 0
        with closing(self._client.chat(body)) as events:
            for event in events:
                piece = event.get("message", {}).get("content", "")
                if piece:
                    emit(piece)
                made = int(event.get("eval_count", made))
        return made
