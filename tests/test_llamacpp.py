from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from whet.errors import ModelError
from whet.llamacpp import LlamaServer, available, check_gguf

needs_llamacpp = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")
VOCABULARY = 400
# The package is truly not importable in this process: a finder in front refuses its name.
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "xllamacpp":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def gguf_file(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from whet.export.gguf import write_gguf
    from whet.export.tensors import CheckpointSource

    target = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(CheckpointSource(tiny_llama_dir), tiny_llama_dir, target, "f32", name="tiny")


@pytest.fixture(scope="module")
def server(gguf_file: Path) -> Iterator[LlamaServer]:
    with LlamaServer(gguf_file, n_ctx=256, threads=1, kv_f32=True) as running:
        yield running


@needs_llamacpp
def test_special_tokens_in_a_text_are_tokens(server: LlamaServer) -> None:
    assert server.tokenize("<|im_start|>")[0] == 1
    assert server.tokenize("<|im_end|>") == [2]


@needs_llamacpp
def test_every_next_token_has_a_probability(server: LlamaServer) -> None:
    """Also after prompts whose likeliest token ends inside a UTF-8 character (the server is silent about those)."""
    for prompt in ([1], [5, 6, 7], list(range(4, 60)), "The quick brown fox"):
        logprobs_V = server.next_logprobs(prompt, VOCABULARY)
        assert logprobs_V.shape == (VOCABULARY,)
        assert logprobs_V.min() > -50
        assert np.exp(logprobs_V).sum() == pytest.approx(1.0, abs=1e-9)


@needs_llamacpp
def test_stream_is_the_completion_in_pieces(server: LlamaServer) -> None:
    whole = server.complete("SELECT count(*)", max_tokens=24)
    pieces = list(server.stream("SELECT count(*)", max_tokens=24))
    assert "".join(pieces) == whole != ""
    assert len(pieces) > 1


@needs_llamacpp
def test_a_stop_ends_the_text_and_is_left_out(server: LlamaServer) -> None:
    whole = server.complete("SELECT count(*)", max_tokens=24)
    stop = next(letter for letter in whole[1:] if letter.isascii())
    assert server.complete("SELECT count(*)", max_tokens=24, stops=[stop]) == whole[: whole.index(stop)]


@needs_llamacpp
def test_chat_uses_the_template_in_the_file(server: LlamaServer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert server.render(messages) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert server.chat(messages, max_tokens=8) == server.complete(server.render(messages), max_tokens=8)


@needs_llamacpp
def test_a_prompt_beyond_the_context_is_an_error(server: LlamaServer) -> None:
    with pytest.raises(ModelError, match="context"):
        server.complete(list(range(4, 104)) * 4)


@needs_llamacpp
def test_the_port_is_closed_to_others(server: LlamaServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.address + "/props")
    assert caught.value.code == 401


@needs_llamacpp
def test_opening_and_closing_at_once_does_not_hang(gguf_file: Path) -> None:
    for _ in range(8):
        LlamaServer(gguf_file, n_ctx=64, threads=1).close()


def test_files_are_checked_before_llamacpp_sees_them(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("not a model")
    for path, word in (
        (tmp_path / "none.gguf", "no file"),
        (tmp_path, "no file"),
        (tmp_path / "text.gguf", "not a GGUF"),
    ):
        with pytest.raises(ModelError, match=word):
            check_gguf(path)


@needs_llamacpp
def test_a_cut_file_is_one_clear_error(gguf_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf_file.read_bytes()[:200_000])
    with pytest.raises(ModelError, match=r"cannot load .*cut\.gguf"):
        LlamaServer(cut)


def test_without_the_package(gguf_file: Path) -> None:
    code = WITHOUT + (
        "from whet.errors import MissingDependency\n"
        "from whet.llamacpp import LlamaServer, available\n"
        "assert not available()\n"
        "try:\n"
        f"    LlamaServer({str(gguf_file)!r})\n"
        "except MissingDependency as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'whet[serve]'" in done.stdout, done.stderr


@needs_llamacpp
def test_llamacpp_is_silent(gguf_file: Path) -> None:
    code = (
        "from whet.llamacpp import LlamaServer\n"
        f"with LlamaServer({str(gguf_file)!r}, n_ctx=64, threads=1) as server: server.complete('a', max_tokens=2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
