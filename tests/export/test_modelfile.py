from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfile_reader import read_modelfile

from whet.errors import ExportError
from whet.export.modelfile import modelfile, quote
from whet.text.chat import bundled_chat_template
from whet.text.template import Turn, TurnTemplate, bundled
from whet.text.templates import FORMATS

WITHOUT_SYSTEM = TurnTemplate(user=Turn("Q: ", "\n"), assistant=Turn("A: ", "<|im_end|>\n"))
AWKWARD = [
    'say "hi"',
    '"quoted"',
    '""',
    '"""',
    '"""docstring""" and on',
    'ends in a quote"',
    "two\nlines\n",
    "\n leading and trailing \n\n",
    "# not a comment",
    "FROM ./other.gguf\nSYSTEM no",
    "tab\tand\r\nwindows line",
    "{{ .System }}",
    "back\\slash \\n",
    "分类 é 🙂",
    " ",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_ollama_reads_back_what_was_meant(text: str) -> None:
    template = bundled("chatml")
    written = modelfile(
        "m.gguf", template, system=text, num_ctx=2048, stops=[text], parameters={"temperature": 0}, license=text
    )
    assert read_modelfile(written) == [
        ("from", "./m.gguf"),
        ("template", template.go()),
        ("system", text),
        ("num_ctx", "2048"),
        ("temperature", "0"),
        ("stop", text),
        ("license", text),
    ]


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('"" \n\r\tab#{}\\') | st.characters(), max_size=40))
def test_every_text_comes_back_or_is_refused(text: str) -> None:
    try:
        value = quote(text, "the text")
    except ExportError:
        return
    assert read_modelfile(f"SYSTEM {value}\nPARAMETER num_ctx 5\n") == [("system", text), ("num_ctx", "5")]


@pytest.mark.parametrize(
    ("text", "word"), [('a"""\nb', '"""'), ("no\u00a0break", "U\\+00A0"), ("family 👨\u200d👩", "U\\+200D")]
)
def test_what_ollama_would_change_is_refused_with_the_reason(text: str, word: str) -> None:
    with pytest.raises(ExportError, match=f"the system message.*{word}"):
        modelfile("m.gguf", None, system=text)


def test_a_system_message_that_the_template_drops_is_refused() -> None:
    assert "SYSTEM" in modelfile("m.gguf", bundled("chatml"), system="You write SQL.")
    with pytest.raises(ExportError, match="no place"):
        modelfile("m.gguf", WITHOUT_SYSTEM, system="You write SQL.")


def test_only_what_is_known_is_written() -> None:
    assert read_modelfile(modelfile("m.gguf", None)) == [("from", "./m.gguf")]
    written = dict(read_modelfile(modelfile("m.gguf", WITHOUT_SYSTEM)))
    assert written["stop"] == "<|im_end|>"
    assert set(written) == {"from", "template", "stop"}


def test_without_a_go_form_the_reason_stands_in_a_comment_and_the_stops_are_written() -> None:
    trims = replace(bundled("llama-3"), trim=True)
    for written in (
        modelfile("m.gguf", trims),
        modelfile("m.gguf", None, stops=["<|eot_id|>"], no_template="it drops\nthe thinking"),
    ):
        assert read_modelfile(written) == [("from", "./m.gguf"), ("stop", "<|eot_id|>")]
        assert "\n# No TEMPLATE: " in written
    assert "white space" in modelfile("m.gguf", trims)
    assert "\n# No Go template writes the same text: it drops the thinking.\n" in written


@pytest.mark.parametrize("name", FORMATS)
def test_every_bundled_template_comes_back_from_its_modelfile(name: str) -> None:
    template = bundled_chat_template(name)
    written = modelfile("m.gguf", template.pieces, stops=template.stops, no_template=template.no_go)
    commands = dict(read_modelfile(written))
    assert commands.get("template") == template.go
    assert commands["stop"] == template.stops[0]


def test_same_arguments_same_bytes() -> None:
    assert modelfile("m.gguf", bundled("chatml"), num_ctx=9) == modelfile("m.gguf", bundled("chatml"), num_ctx=9)
