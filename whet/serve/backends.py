"""What answers in a chat: a model in torch, or a GGUF in llama.cpp. Both turn messages into ids and stream text."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from whet.errors import ModelError
from whet.export.gguf_header import read_header
from whet.llamacpp import LlamaServer

GGUF_CONTEXT = 8192  # tokens: keys and values of 128k tokens would take gigabytes; a file that can less gets less

EXPECTED = 'a run folder, an adapter folder, a checkpoint folder, a .gguf file, owner/name on the hub, or "starter"'

Messages = Sequence[Mapping[str, str]]
Emit = Callable[[str], None]


class Backend(Protocol):
    """A loaded model.

    Attributes:
        context: tokens that it reads, answer included; None where that is not known.
        has_template: whether it can write a conversation; without a template it only continues text.
    """

    context: int | None
    has_template: bool

    def chat_ids(self, messages: Messages) -> list[int]:
        """The prompt of a conversation."""

    def text_ids(self, text: str) -> list[int]:
        """The prompt of a plain text."""

    def stream(self, ids: list[int], max_tokens: int, temperature: float, emit: Emit) -> None:
        """Make the answer and hand it to ``emit`` in pieces."""


class TorchBackend:
    """A transformers model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from whet.evaluate.prompts import context_limit, stop_ids

        self.model, self.tokenizer = model, tokenizer
        self.context = context_limit(model, tokenizer)
        self.has_template = bool(tokenizer.chat_template)
        self._stops = stop_ids(model, tokenizer)

    def chat_ids(self, messages: Messages) -> list[int]:
        from whet.evaluate.prompts import chat_ids

        return chat_ids(self.tokenizer, messages)

    def text_ids(self, text: str) -> list[int]:
        from whet.evaluate.prompts import text_ids

        return text_ids(self.tokenizer, text)

    def stream(self, ids: list[int], max_tokens: int, temperature: float, emit: Emit) -> None:
        import torch

        from whet.evaluate.generate import evaluating

        listener = _Listener(self.tokenizer, self._stops, emit)
        ids_1T = torch.tensor([ids], device=self.model.get_input_embeddings().weight.device)
        config = self._config(max_tokens, temperature)
        with evaluating(self.model), torch.inference_mode(), _fresh_chance(self.model, temperature):
            self.model.generate(
                input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), generation_config=config, streamer=listener
            )

    def _config(self, max_tokens: int, temperature: float) -> Any:
        from transformers import GenerationConfig

        from whet.evaluate.generate import greedy_config, pad_id

        pad = pad_id(self.tokenizer, self._stops)
        if temperature == 0:
            return greedy_config(max_tokens, self._stops, pad)
        return GenerationConfig(  # what is not named here (top_p, top_k) comes from the model's own settings
            do_sample=True,
            temperature=temperature,
            max_new_tokens=max_tokens,
            eos_token_id=self._stops or None,
            pad_token_id=pad,
            use_cache=True,
        )


class _Listener:
    """What ``generate`` calls with the prompt first, then with each token (transformers' streamer protocol)."""

    def __init__(self, tokenizer: Any, stops: Sequence[int], emit: Emit) -> None:
        from whet.serve.pieces import TextPieces

        self._pieces, self._stops, self._emit = TextPieces(tokenizer), stops, emit
        self._prompt_seen = False

    def put(self, ids: Any) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for token in ids.flatten().tolist():
            if token not in self._stops:
                self._say(self._pieces.push(token))

    def end(self) -> None:
        self._say(self._pieces.rest())

    def _say(self, piece: str) -> None:
        if piece:
            self._emit(piece)


@contextmanager
def _fresh_chance(model: Any, temperature: float) -> Iterator[None]:
    """Other random numbers each time while sampling (torch begins every process with the same ones); then as before."""
    import torch

    if temperature == 0:
        yield
        return
    device = model.get_input_embeddings().weight.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.seed()
        yield


class GgufBackend:
    """A GGUF in llama.cpp, with the chat template in the file."""

    def __init__(self, server: LlamaServer, has_template: bool, context: int) -> None:
        self._server, self.has_template = server, has_template
        self.context: int | None = context

    def chat_ids(self, messages: Messages) -> list[int]:
        return self.text_ids(self._server.render([dict(message) for message in messages]))

    def text_ids(self, text: str) -> list[int]:
        return self._server.tokenize(text, add_special=True)

    def stream(self, ids: list[int], max_tokens: int, temperature: float, emit: Emit) -> None:
        seed = secrets.randbelow(2**31) if temperature else 0
        for piece in self._server.stream(ids, max_tokens, temperature, seed=seed):
            emit(piece)


@contextmanager
def open_backend(path: Path | str) -> Iterator[Backend]:
    """Load what ``path`` means: a run, adapter or checkpoint folder, "starter", a hub name, or a GGUF file.

    A folder that holds one GGUF and no other model means that GGUF.

    Raises:
        ModelError: nothing there, or no model.
        MissingDependency: a GGUF, and llama.cpp is not installed.
    """
    file = _gguf_file(Path(path).expanduser())
    if file is None:
        from whet.models.load import load_for_inference

        yield TorchBackend(*load_for_inference(str(path)))
        return
    header = read_header(file)
    own_context = header.get(f"{header.get('general.architecture')}.context_length", GGUF_CONTEXT)
    context = min(own_context, GGUF_CONTEXT)
    with LlamaServer(file, n_ctx=context) as server:
        yield GgufBackend(server, "tokenizer.chat_template" in header, context)


def _gguf_file(path: Path) -> Path | None:
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        return path
    if path.is_file():
        raise ModelError(f"{path} is a file, and no .gguf", EXPECTED)
    if not path.is_dir() or any(
        (path / name).exists() for name in ("config.json", "adapter_config.json", "config.yml")
    ):
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelError(f"{path} holds {len(files)} GGUF files", "one of them", f"name it: {names}")
    return files[0] if files else None
