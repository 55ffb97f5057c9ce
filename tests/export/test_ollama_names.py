"""Where Ollama answers and what a model may be called, in the forms that Ollama itself understands."""

from __future__ import annotations

import pytest

from whet.errors import ExportError
from whet.export.ollama_names import check_name, names_for, ollama_address


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:1234", "http://box:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("http://box:9/", "http://box:9"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]:90", "http://[::1]:90"),
        ("[fe80::1]:90", "http://[fe80::1]:90"),
        ("\" 'box:5' \"", "http://box:5"),
    ],
)
def test_forms_of_the_address(given: str | None, expected: str) -> None:
    assert str(ollama_address({} if given is None else {"OLLAMA_HOST": given})) == expected


@pytest.mark.parametrize("given", ["box:port", "box:65536", "box:-1", "ftp://box", "box:", "http://box:١"])
def test_addresses_that_are_none(given: str) -> None:
    with pytest.raises(ExportError, match="OLLAMA_HOST"):
        ollama_address({"OLLAMA_HOST": given})


@pytest.mark.parametrize(
    "name",
    ["m", "My_model-1.2", "me/tiny:q4_k_m", "registry.example.com:5000/me/tiny:v1.0", "_x", "a" * 80, "m:" + "t" * 80],
)
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a:",
        ":a",
        "/a",
        "a/",
        "a//b",
        "a/b/c/d",
        "na.me/x",
        "-a",
        ".a",
        "a:b:c",
        "ä",
        "a\n",
        "a" * 81,
        "a;b",
        "m:",
    ],
)
def test_no_names(name: str) -> None:
    with pytest.raises(ExportError, match="no name for a model"):
        check_name(name)


def test_several_quantisations_get_a_tag_each() -> None:
    assert names_for("me/m:v1", ["q8_0"]) == {"q8_0": "me/m:v1"}
    assert names_for("me/m", ["q8_0", "f16"]) == {"q8_0": "me/m:q8_0", "f16": "me/m:f16"}
    assert names_for("box:5/me/m", ["q8_0", "f16"])["f16"] == "box:5/me/m:f16"
    with pytest.raises(ExportError, match="without a tag"):
        names_for("m:v1", ["q8_0", "f16"])
