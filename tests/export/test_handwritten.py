"""Tutorial A's end: FROM and SYSTEM written by hand beside our GGUF. All else Ollama takes from the file itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
from ollama_server import running_ollama

from whet.export.ollama import OllamaClient, create_model
from whet.export.ollama_names import ollama_address
from whet.export.run import export_run
from whet.llamacpp import LlamaServer
from whet.models.load import load_tokenizer
from whet.text.template import Turn, TurnTemplate

SYSTEM = "You are an SQL generator that takes a user's query and gives SQL."
BY_HAND = f"FROM ./model.f16.gguf\nSYSTEM {SYSTEM}\n"
FRAME = TurnTemplate(
    system=Turn("Below is a task.\n\n### Instruction:\nCompany database: ", "\n\n"),
    user=Turn("### Input:\nSQL prompt: ", "\n\n"),
    assistant=Turn("### Response:\nSQL: ", "<|im_end|>"),
)


@pytest.fixture(scope="module")
def exported(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on rows in tutorial A's frame, as a GGUF with a hand-written Modelfile beside it."""
    folder = tmp_path_factory.mktemp("by-hand")
    model = shutil.copytree(tiny_llama_dir, folder / "model")
    (model / "chat_template.jinja").write_text(FRAME.jinja())
    export_run(model, folder, ["f16"], proof=False)
    (folder / "Modelfile").write_text(BY_HAND)
    return folder


def field(reader: Any, name: str) -> Any:
    return reader.fields[name].contents()


def test_the_file_holds_template_end_token_and_context(exported: Path) -> None:
    reader = gguf.GGUFReader(exported / "model.f16.gguf")
    assert field(reader, "tokenizer.chat_template") == FRAME.jinja()
    tokens = field(reader, "tokenizer.ggml.tokens")
    assert tokens[field(reader, "tokenizer.ggml.eos_token_id")] == "<|im_end|>"
    assert field(reader, "llama.context_length") == 512


def test_its_template_keeps_the_system_text_where_the_jinja_is_run(exported: Path, needs_llamacpp: None) -> None:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "How many?"}]
    expected = load_tokenizer(str(exported / "model"), {}).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert f"Company database: {SYSTEM}\n\n### Input:\nSQL prompt: How many?" in expected
    with LlamaServer(exported / "model.f16.gguf", n_ctx=256, threads=1) as server:
        assert server.render(messages) == expected


def test_the_two_lines_are_all_that_is_sent(exported: Path) -> None:
    with running_ollama() as ollama:
        client = OllamaClient(ollama_address({"OLLAMA_HOST": ollama.url}))
        create_model("sqlmodel", exported / "Modelfile", client)
        body = ollama.models["sqlmodel"]
        assert set(body) == {"model", "files", "system", "stream"}
        assert body["system"] == SYSTEM
        assert ollama.blobs[body["files"]["model.gguf"]] == (exported / "model.f16.gguf").read_bytes()
