from __future__ import annotations

import os
from pathlib import Path

import pytest

from whet.errors import ModelError
from whet.llamacpp import available
from whet.serve.backends import GgufBackend, TorchBackend, open_backend
from whet.serve.conversation import Conversation
from whet.serve.sampling import Sampling

GREEDY = Sampling(temperature=0)

needs_llamacpp = pytest.mark.skipif(not available(), reason="xllamacpp is not installed")
QUESTIONS = ["How many singers are there?", "List the names of all cities in France.", "Who won in 1999?"]


@needs_llamacpp
def test_a_gguf_says_what_torch_says(starter, starter_gguf: Path):
    with open_backend(starter_gguf) as backend:
        assert isinstance(backend, GgufBackend) and backend.has_template and backend.context == 2048
        messages = [{"role": "system", "content": "You write SQL."}, {"role": "user", "content": "Höher als 3 分类?"}]
        assert backend.chat_ids(messages) == starter.chat_ids(messages)
        for question in QUESTIONS:
            said: list[str] = []
            answer = Conversation(backend, None, 24, GREEDY).ask(question, said.append)
            assert answer == Conversation(starter, None, 24, GREEDY).ask(question, said.append) and len(said) > 4


@needs_llamacpp
def test_a_gguf_without_a_chat_template_goes_on(starter, bare_gguf: Path, capsys):
    with open_backend(bare_gguf) as backend:
        assert not backend.has_template
        answer = Conversation(backend, None, 12, GREEDY).ask("The capital of", lambda piece: None)
    said: list[str] = []
    starter.stream(starter.text_ids("The capital of"), 12, Sampling(temperature=0), said.append)
    assert answer == "".join(said)
    assert "no chat template" in capsys.readouterr().err


@needs_llamacpp
def test_a_folder_with_one_gguf_means_it(starter_gguf: Path, tmp_path: Path):
    (tmp_path / "model.gguf").symlink_to(starter_gguf)
    with open_backend(tmp_path) as backend:
        assert isinstance(backend, GgufBackend)
    (tmp_path / "other.gguf").symlink_to(starter_gguf)
    with pytest.raises(ModelError, match=r"model\.gguf, other\.gguf"), open_backend(tmp_path):
        pass


def test_adapter_and_run_folders(tmp_path: Path, tiny_llama_dir: Path):
    from peft import LoraConfig, get_peft_model

    from whet.models.load import load_for_inference

    model, tokenizer = load_for_inference(str(tiny_llama_dir))
    adapter = tmp_path / "run" / "adapter"
    get_peft_model(model, LoraConfig(r=4, init_lora_weights=False)).save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    (tmp_path / "run" / "config.yml").write_text("adapter: lora\n")
    answers = []
    for place in (tmp_path / "run", adapter, tiny_llama_dir):
        with open_backend(place) as backend:
            assert isinstance(backend, TorchBackend)
            answers.append(Conversation(backend, None, 8, GREEDY).ask("Hello", lambda piece: None))
    assert answers[0] == answers[1] != answers[2]


def _fails(path: Path | str) -> str:
    with pytest.raises(ModelError) as caught, open_backend(path):
        pass
    return str(caught.value)


def test_what_is_no_model(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "text.gguf").write_text("hello")
    assert "adapter folder" in _fails(tmp_path / "empty")
    assert "adapter folder" in _fails(tmp_path / "missing" / "deep" / "run")
    assert ".gguf" in _fails(tmp_path / "notes.txt")
    assert "begins with GGUF" in _fails(tmp_path / "text.gguf")
    assert "no file" in _fails(tmp_path / "missing.gguf")
    assert _fails(os.sep + "no-such-folder")
