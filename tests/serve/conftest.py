"""Models to talk to."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from whet import console
from whet.export.adapter import resolve_source
from whet.export.gguf import write_gguf
from whet.models.load import load_for_inference
from whet.serve.backends import TorchBackend


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """On a busy machine, the threads of such small models wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def notices_are_said_again():
    console.forget_notices()


@pytest.fixture(scope="session")
def check_openai() -> ModuleType:
    return importlib.import_module("check_openai")


@pytest.fixture(scope="session")
def browser_module() -> ModuleType:
    module = importlib.import_module("browser")
    if module.PROGRAM is None:
        pytest.skip("no chromium here")
    return module


@pytest.fixture(scope="session")
def starter():
    return TorchBackend(*load_for_inference("starter"))


@pytest.fixture(scope="session")
def tiny(tiny_llama_dir: Path):
    """Reads 512 tokens; says random things and hardly ever stops."""
    return TorchBackend(*load_for_inference(str(tiny_llama_dir)))


def _gguf(folder: Path, name: str, source: str, chat_template: str | None = None) -> Path:
    weights, tokenizer = resolve_source(source)
    return write_gguf(weights, tokenizer, folder / name, "f32", name="test", chat_template=chat_template)


@pytest.fixture(scope="session")
def starter_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _gguf(tmp_path_factory.mktemp("gguf"), "starter.gguf", "starter")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> Path:
    return _gguf(tmp_path_factory.mktemp("gguf"), "tiny.gguf", str(tiny_llama_dir))


@pytest.fixture(scope="session")
def bare_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter without a chat template."""
    return _gguf(tmp_path_factory.mktemp("gguf"), "bare.gguf", "starter", chat_template="")
