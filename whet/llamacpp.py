"""The one file that knows xllamacpp: llama.cpp's own server, run inside this process.

A GGUF is loaded by llama.cpp and asked over HTTP on the loopback address: tokens of a text, the next-token
distribution over the whole vocabulary, generated text. The package is optional (extra ``serve``); where it or its
wheel is missing, ``available()`` is False and :class:`LlamaServer` raises :class:`MissingDependency`.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from whet.errors import MissingDependency, ModelError

INSTALL = "pip install 'whet[serve]'"
GGUF_MAGIC = b"GGUF"
REQUEST_SECONDS = 600.0  # a long prompt of a large model on a slow CPU still answers within this
SILENT = -1  # llama.cpp's log level below errors; its errors come back as exceptions
LETTER_BIAS = 1e6  # above any logit
LOWEST_LOGPROB = -1e30  # llama.cpp writes the smallest float where a probability underflows to zero


def available() -> bool:
    """Whether llama.cpp can be loaded here. Never raises."""
    try:
        _xllamacpp()
    except MissingDependency:
        return False
    return True


def _xllamacpp() -> Any:
    """Import xllamacpp, with OpenMP's library in place before.

    Raises:
        MissingDependency: the package, its wheel for this machine, or a system library is missing.
    """
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as first:
        if isinstance(first, ModuleNotFoundError) and first.name in (None, "xllamacpp"):
            raise MissingDependency("llama.cpp is not installed (the package xllamacpp)", fix=INSTALL) from first
        if not _load_torch_openmp():
            raise _cannot_load(first) from first
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as second:
        raise _cannot_load(second) from second


def _cannot_load(error: ImportError) -> MissingDependency:
    fix = f"{INSTALL} again"
    if "libgomp" in str(error):
        fix = "install the system package libgomp1 (Debian, Ubuntu: apt-get install libgomp1)"
    return MissingDependency(f"xllamacpp is installed but does not load: {error}", fix=fix)


def _load_torch_openmp() -> bool:
    """Load the libgomp that torch's wheel brings; a bare system has no other. True when one was loaded."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    torch_folder = Path(spec.submodule_search_locations[0])
    for library in sorted((torch_folder / "lib").glob("libgomp*.so*")):
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        for name in [name for name in sys.modules if name.split(".")[0] == "xllamacpp"]:
            del sys.modules[name]  # what the first, failed import left behind
        return True
    return False


def check_gguf(path: Path | str) -> Path:
    """The path, when it is a readable GGUF file (llama.cpp itself says only that loading failed).

    Raises:
        ModelError: no such file, a folder, or not a GGUF.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"no file {file}", "a .gguf file", "check the path")
    with file.open("rb") as opened:
        if opened.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise ModelError(f"{file} is not a GGUF file", "a file that begins with GGUF", "export the model again")
    return file


class LlamaServer:
    """llama.cpp with one GGUF, as a context manager.

    Args:
        path: the GGUF file.
        n_ctx: tokens of context for each of the ``n_parallel`` slots; 0 takes the length in the file.
        threads: CPU threads; None leaves the choice to llama.cpp.
        kv_f32: keep keys and values in float32 without flash attention, as an exact comparison needs.
            The default of llama.cpp, float16, shifts logits by about 1e-2.
        n_parallel: requests served at the same time.
        loras: GGUF files of LoRA adapters to put on the model.
        prompt_cache_mib: memory in which llama.cpp keeps prompts that are in no slot any more; None: its own choice.

    Raises:
        ModelError: the file is missing, is no GGUF, or llama.cpp refuses it.
        MissingDependency: xllamacpp is not there.
    """

    def __init__(
        self,
        path: Path | str,
        n_ctx: int = 0,
        threads: int | None = None,
        kv_f32: bool = False,
        n_parallel: int = 1,
        loras: Sequence[Path | str] = (),
        prompt_cache_mib: int | None = None,
    ) -> None:
        self.path = check_gguf(path)
        adapters = [check_gguf(lora) for lora in loras]
        self._key = secrets.token_hex(16)  # other users of this machine can reach the port, but not the model
        params = _params(self.path, n_ctx * n_parallel, threads, kv_f32, n_parallel, self._key)
        if prompt_cache_mib is not None:
            params.cache_ram_mib = prompt_cache_mib
        if adapters:
            params.lora_adapters = [_lora(adapter) for adapter in adapters]
        try:
            self._server: Any = _xllamacpp().Server(params)
        except RuntimeError as error:
            raise ModelError(
                f"llama.cpp cannot load {self.path}: {error}", "a complete GGUF file", "export the model again"
            ) from error
        self._letter_id: int | None = None
        self.address: str = self._server.listening_address
        # An answer from its task loop: a server that is stopped before that loop runs never ends (xllamacpp 2026.10).
        self._get("/slots")

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free the model. A second call does nothing."""
        self._server = None

    @property
    def authorization(self) -> dict[str, str]:
        """The header that opens the server at ``address``, for a client of another kind than this one."""
        return {"Authorization": f"Bearer {self._key}"}

    def properties(self) -> dict[str, Any]:
        """What llama.cpp says about the loaded model (``/props``)."""
        return self._get("/props")

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        """Token ids of ``text``; special tokens written in it count as such.

        Args:
            add_special: also add what the vocabulary adds by itself, for example a beginning token.
        """
        return self._post("/tokenize", {"content": text, "add_special": add_special, "parse_special": True})["tokens"]

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt that llama.cpp makes of a conversation with the chat template in the file."""
        return self._post("/apply-template", {"messages": list(messages)})["prompt"]

    def next_logprobs(self, prompt: str | Sequence[int], vocab_size: int) -> np.ndarray:
        """Natural log-probabilities of the next token, before any sampling; float64, shape [vocab_size].

        Args:
            prompt: a text, or token ids.
            vocab_size: rows of the vocabulary, padding included.
        """
        body = {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "n_predict": 1,
            "n_probs": vocab_size,
            "temperature": 0.0,
            "post_sampling_probs": False,
            # The answer leaves the probabilities out when the token drawn ends inside a UTF-8 character. So a plain
            # letter is drawn always; the probabilities are those from before the bias.
            "logit_bias": [[self._letter(), LETTER_BIAS]],
            "cache_prompt": True,  # the prompts of one document are prefixes of each other
        }
        entries = self._post("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        logprobs_V = np.full(vocab_size, LOWEST_LOGPROB)
        logprobs_V[[entry["id"] for entry in entries]] = [entry["logprob"] for entry in entries]
        logprobs_V = np.maximum(logprobs_V, LOWEST_LOGPROB)
        # llama.cpp sums the softmax in float32: without this the probabilities add up to 1 only within about 1e-5.
        return logprobs_V - np.logaddexp.reduce(logprobs_V)

    def _letter(self) -> int:
        if self._letter_id is None:
            self._letter_id = self.tokenize("a")[0]
        return self._letter_id

    def complete(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 256,
        temperature: float = 0.0,
        stops: Sequence[str] = (),
        seed: int = 0,
    ) -> str:
        """The text that follows ``prompt``, up to a stop or an end token; neither is part of it."""
        return self._post("/completion", _sampling(prompt, max_tokens, temperature, stops, seed))["content"]

    def greedy_ids(self, prompt: Sequence[int], max_tokens: int, stops: Sequence[str] = ()) -> tuple[list[int], bool]:
        """The tokens that follow ``prompt`` at temperature 0, and whether a stop or an end token ended them.

        An end token is the last of them; of a stop text, tokens may be left over at the end.
        """
        body = _sampling(prompt, max_tokens, 0.0, stops, 0) | {"return_tokens": True, "cache_prompt": True}
        answer = self._post("/completion", body)
        return list(answer["tokens"]), answer["stop_type"] in ("eos", "word")

    def ends_at(self, token: int) -> bool:
        """Whether generation ends when ``token`` is drawn."""
        body = _sampling([token], 2, 0.0, (), 0) | {"logit_bias": [[token, LETTER_BIAS]]}
        return self._post("/completion", body)["stop_type"] == "eos"

    def stream(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 256,
        temperature: float = 0.0,
        stops: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str]:
        """As :meth:`complete`, in pieces as they are made."""
        body = _sampling(prompt, max_tokens, temperature, stops, seed) | {"stream": True}
        for event in self._events("/completion", body):
            if event.get("content"):
                yield event["content"]

    def stream_counted(
        self, prompt: Sequence[int], max_tokens: int, sampling: Mapping[str, Any]
    ) -> Generator[tuple[str, int], None, None]:
        """The pieces of an answer, each with the number of tokens made so far.

        Args:
            sampling: llama.cpp's own fields, such as ``temperature`` and ``top_p``.
        """
        body = {"prompt": list(prompt), "n_predict": max_tokens, "stream": True, **sampling}
        for event in self._events("/completion", body):
            yield event.get("content") or "", int(event.get("tokens_predicted", 0))

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int = 256,
        temperature: float = 0.0,
        stops: Sequence[str] = (),
        seed: int = 0,
    ) -> str:
        """The assistant's next message, with the chat template in the file."""
        body = {"messages": list(messages), "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        return self._post("/v1/chat/completions", body | {"stop": list(stops)})["choices"][0]["message"]["content"]

    def _post(self, place: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._open(place, body) as response:
            return json.load(response)

    def _get(self, place: str) -> dict[str, Any]:
        with self._open(place, None) as response:
            return json.load(response)

    def _events(self, place: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._open(place, body) as response:
            for line in response:
                text = line.decode("utf-8").strip()
                if text.startswith("data: ") and text != "data: [DONE]":
                    yield json.loads(text.removeprefix("data: "))

    def _open(self, place: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode("utf-8")
        headers = {"Content-Type": "application/json", **self.authorization}
        request = urllib.request.Request(self.address + place, data, headers)
        # No proxy: the address is this machine, whatever the environment's proxy settings say.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request, timeout=REQUEST_SECONDS)
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")
            raise ModelError(f"llama.cpp refused the request to {place}: {_message(said)}") from error


def _params(path: Path, n_ctx: int, threads: int | None, kv_f32: bool, n_parallel: int, key: str) -> Any:
    lib = _xllamacpp()
    params = lib.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = n_ctx, n_parallel
    params.verbosity, params.warmup, params.ui = SILENT, False, False
    params.use_jinja = True
    params.api_keys = [key]
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if kv_f32:
        params.cache_type_k = params.cache_type_v = lib.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = lib.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params


def _lora(path: Path) -> Any:
    adapter = _xllamacpp().CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(path), 1.0
    return adapter


def _sampling(
    prompt: str | Sequence[int], max_tokens: int, temperature: float, stops: Sequence[str], seed: int
) -> dict[str, Any]:
    return {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "n_predict": max_tokens,
        "temperature": temperature,
        "stop": list(stops),
        "seed": seed,
    }


def _message(said: str) -> str:
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return said[:500]
