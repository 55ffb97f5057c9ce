"""What answers in a chat: a model in torch, or a GGUF in llama.cpp. Both turn messages into ids and stream text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from whet.errors import ModelError
from whet.export.gguf_header import read_header
from whet.llamacpp import LlamaServer
from whet.serve.ollama_backend import PREFIX, OllamaBackend
from whet.serve.sampling import Sampling, sampling_body

GGUF_CONTEXT = 8192  # tokens: keys and values of 128k tokens would take gigabytes; a file that can less gets less

EXPECTED = 'a run, adapter folder or checkpoint folder, a .gguf file, owner/name on the hub, "starter", or ollama:NAME'

Messages = Sequence[Mapping[str, str]]
Emit = Callable[[str], None]
Prompt = Sequence[Any]  # token ids; for Ollama, which makes them itself, the messages


class Backend(Protocol):
    """A loaded model.

    Attributes:
        context: tokens that it reads, answer included; None where that is not known.
        has_template: whether it can write a conversation; without a template it only continues text.
    """

    context: int | None
    has_template: bool

    def prompt(self, messages: Messages) -> Prompt:
        """What the model reads of a conversation; without a template, of its last message alone."""

    def stream(self, prompt: Any, max_tokens: int, sampling: Sampling, emit: Emit) -> int:
        """Make the answer and hand it to ``emit`` in pieces; returns the tokens made."""


class TorchBackend:
    """A transformers model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from whet.evaluate.prompts import context_limit, stop_ids

        self.model, self.tokenizer = model, tokenizer
        self.context = context_limit(model, tokenizer)
        self.has_template = bool(tokenizer.chat_template)
        self.stops = stop_ids(model, tokenizer)

    def chat_ids(self, messages: Messages) -> list[int]:
        from whet.evaluate.prompts import chat_ids

        return chat_ids(self.tokenizer, messages)

    def text_ids(self, text: str) -> list[int]:
        from whet.evaluate.prompts import text_ids

        return text_ids(self.tokenizer, text)

    def prompt(self, messages: Messages) -> list[int]:
        return self.chat_ids(messages) if self.has_template else self.text_ids(messages[-1]["content"])

    def stream(self, prompt: Any, max_tokens: int, sampling: Sampling, emit: Emit) -> int:
        from whet.serve.pieces import TextPieces
        from whet.serve.torch_tokens import drawn_tokens

        pieces, made = TextPieces(self.tokenizer), 0
        with closing(drawn_tokens(self.model, prompt, max_tokens, sampling)) as tokens:
            for drawn in tokens:
                made += 1
                if drawn.id in self.stops:
                    break
                _say(emit, pieces.push(drawn.id))
        _say(emit, pieces.rest())
        return made


def _say(emit: Emit, piece: str) -> None:
    if piece:
        emit(piece)


class GgufBackend:
    """A GGUF in llama.cpp, with the chat template in the file."""

    def __init__(self, server: LlamaServer, has_template: bool, context: int) -> None:
        self._server, self.has_template = server, has_template
        self.context: int | None = context

    def chat_ids(self, messages: Messages) -> list[int]:
        return self.text_ids(self._server.render([dict(message) for message in messages]))

    def text_ids(self, text: str) -> list[int]:
        return self._server.tokenize(text, add_special=True)

    def prompt(self, messages: Messages) -> list[int]:
        return self.chat_ids(messages) if self.has_template else self.text_ids(messages[-1]["content"])

    def stream(self, prompt: Any, max_tokens: int, sampling: Sampling, emit: Emit) -> int:
        made = 0
        with closing(self._server.stream_counted(prompt, max_tokens, sampling_body(sampling))) as pieces:
            for piece, count in pieces:  # closed at Ctrl-C, so that llama.cpp stops too
                made = count
                _say(emit, piece)
        return made


@contextmanager
def open_backend(path: Path | str) -> Iterator[Backend]:
    """Load what ``path`` means: a run, adapter or checkpoint folder, "starter", a hub name, a GGUF, ``ollama:NAME``.

    A folder that holds one GGUF and no other model means that GGUF.

    Raises:
        ModelError: nothing there, or no model.
        MissingDependency: a GGUF, and llama.cpp is not installed.
    """
    if str(path).startswith(PREFIX):
        yield OllamaBackend(str(path).removeprefix(PREFIX))
        return
    file = gguf_file(Path(path).expanduser())
    if file is None:
        from whet.models.load import load_for_inference

        yield TorchBackend(*load_for_inference(str(path)))
        return
    header = read_header(file)
    context = min(own_context(header), GGUF_CONTEXT)
    with LlamaServer(file, n_ctx=context) as server:
        yield GgufBackend(server, "tokenizer.chat_template" in header, context)


def own_context(header: Mapping[str, Any]) -> int:
    """Tokens that the model of a GGUF reads."""
    return int(header.get(f"{header.get('general.architecture')}.context_length", GGUF_CONTEXT))


def gguf_file(path: Path) -> Path | None:
    """The GGUF that a path means: the file, or the only one of a folder without another model; else None.

    Raises:
        ModelError: a file of another kind, or a folder with several.
    """
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
