"""The reader of Modelfiles: what the writer wrote comes back; hand-written ones are read as Ollama reads them."""

from __future__ import annotations

from pathlib import Path

import modelfile_reader as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import ExportError
from whet.export.modelfile import modelfile, quote
from whet.export.modelfile_reader import create_request, read_commands
from whet.text.chat import bundled_chat_template
from whet.text.templates import FORMATS

TEXTS = st.text(st.sampled_from('"" \n\r\tab#{}\\') | st.characters(), max_size=40)

BY_HAND = '''\ufeff# tutorial A
from ./model.q4_k_m.gguf

System """You are an SQL generator that takes a users query and gives them helpful SQL to use.
Answer with SQL only."""
PARAMETER temperature 0
PARAMETER  stop  "<|im_end|>"
parameter stop </s>
MESSAGE user How many?
MESSAGE assistant "SELECT 1"
LICENSE MIT
LICENSE """second"""'''


def pairs(text: str) -> list[tuple[str, str]]:
    return [(c.key if c.name == "parameter" else c.name, c.value) for c in read_commands(text)]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_what_was_written_comes_back(text: str) -> None:
    try:
        value = quote(text, "the text")
    except ExportError:
        return
    assert pairs(f"SYSTEM {value}\nPARAMETER num_ctx 5\n") == [("system", text), ("num_ctx", "5")]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_any_value_is_read_as_ollama_reads_it(text: str) -> None:
    """Against the mirror of Ollama's parser: closed or not, printable or not."""
    written = f"FROM m\nSYSTEM {text}\n"
    try:
        expected = oracle.read_modelfile(written)
    except AssertionError:  # quotes left open, or half a command at the end
        return
    try:
        assert pairs(written) == expected
    except ExportError:  # a line of the text that is no command: Ollama refuses it, the mirror does not look
        assert any(name not in ("from", "system") for name, _ in expected)


@pytest.mark.parametrize("name", FORMATS)
def test_every_bundled_template_becomes_a_request(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    form = bundled_chat_template(name)
    text = modelfile("m.gguf", form.pieces, num_ctx=2048, stops=form.stops, no_template=form.no_go, license="mit")
    (tmp_path / "Modelfile").write_text(text)
    request = create_request(tmp_path / "Modelfile")
    assert request.files == {"model.gguf": tmp_path / "m.gguf"}
    assert request.body.get("template") == form.go
    assert request.body["parameters"] == {"num_ctx": 2048, "stop": list(form.stops)}
    assert request.body["license"] == ["mit"]


def test_a_hand_written_one(tmp_path: Path) -> None:
    (tmp_path / "model.q4_k_m.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text(BY_HAND, encoding="utf-8")
    request = create_request(tmp_path / "Modelfile")
    assert request.files == {"model.gguf": tmp_path / "model.q4_k_m.gguf"}
    assert request.body == {
        "system": "You are an SQL generator that takes a users query and gives them helpful SQL to use.\n"
        "Answer with SQL only.",
        "parameters": {"temperature": 0.0, "stop": ["<|im_end|>", "</s>"]},
        "messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "SELECT 1"}],
        "license": ["MIT", "second"],
    }


def test_adapters_and_models_that_ollama_has(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf", "lora.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text("FROM ./a.gguf\nFROM b.gguf\nADAPTER ./lora.gguf")
    request = create_request(tmp_path / "Modelfile")
    assert request.files == {"model.gguf": tmp_path / "a.gguf", "model-2.gguf": tmp_path / "b.gguf"}
    assert request.adapters == {"adapter.gguf": tmp_path / "lora.gguf"}
    (tmp_path / "Modelfile").write_text("FROM llama3.2:1b\nSYSTEM hi")
    assert create_request(tmp_path / "Modelfile").body == {"from": "llama3.2:1b", "system": "hi"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SYSTEM hi", "no FROM"),
        ("FROM ./none.gguf", "line 1: there is no file"),
        ("FROM none.gguf", "there is no file"),
        ("FROM ./", "is a folder"),
        ("FROM m\nADAPTER none", "line 2: there is no file"),
        ("FROM m\nSYTEM hi", 'did you mean "system"'),
        ('FROM m\n\nSYSTEM """open\nend', "line 3: quotes"),
        ("FROM m\nPARAMETER temprature 0", "temperature"),
        ("FROM m\nPARAMETER num_ctx many", "whole number"),
        ("FROM m\nMESSAGE robot hi", "robot"),
    ],
)
def test_what_ollama_would_refuse(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(text)
    with pytest.raises(ExportError, match=words):
        create_request(tmp_path / "Modelfile")


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no"):
        create_request(tmp_path / "Modelfile")
    (tmp_path / "Modelfile").write_bytes(b"\xff\xfe\x00FROM")
    with pytest.raises(ExportError, match="UTF-8"):
        create_request(tmp_path / "Modelfile")
