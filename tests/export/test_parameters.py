"""PARAMETERs: only what is asked for, each of its kind, and in an order that does not depend on the asking."""

from __future__ import annotations

import pytest
from modelfile_reader import read_modelfile

from whet.errors import ExportError
from whet.export.modelfile import modelfile
from whet.export.parameters import read_parameters


def test_values_get_their_kinds_and_a_fixed_order() -> None:
    given = read_parameters(["temperature=0", "seed=7", "stop=a=b", "top_p=0.95", "seed=8"])
    assert given == {"seed": 8, "top_p": 0.95, "temperature": 0.0, "stop": "a=b"}
    assert list(given) == ["seed", "top_p", "temperature", "stop"]


def test_they_stand_in_the_modelfile_and_nothing_else_does() -> None:
    asked = {"temperature": 0.0, "repeat_penalty": 1.1, "stop": "</s>", "num_predict": 64}
    written = modelfile("m.gguf", None, num_ctx=2048, stops=["<|im_end|>"], parameters=asked)
    assert read_modelfile(written) == [
        ("from", "./m.gguf"),
        ("num_ctx", "2048"),
        ("num_predict", "64"),
        ("temperature", "0"),
        ("repeat_penalty", "1.1"),
        ("stop", "<|im_end|>"),
        ("stop", "</s>"),
    ]
    assert written == modelfile(
        "m.gguf", None, num_ctx=2048, stops=["<|im_end|>"], parameters=dict(reversed(asked.items()))
    )
    assert "PARAMETER" not in modelfile("m.gguf", None)


def test_a_context_that_is_asked_for_wins_over_the_training_length() -> None:
    assert ("num_ctx", "512") in read_modelfile(modelfile("m.gguf", None, num_ctx=2048, parameters={"num_ctx": 512}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("temperature", "NAME=VALUE"),
        ("temprature=0", "temperature"),
        ("typical_p=0.5", "no parameter 'typical_p'"),
        ("seed=1.5", "whole number"),
        ("top_p=much", "a number"),
        ("top_p=1.5", "between 0 and 1"),
        ("temperature=nan", "not negative"),
        ("temperature=-1", "not negative"),
        ("num_ctx=0", "at least 1"),
    ],
)
def test_what_ollama_would_refuse_is_refused_before_the_long_work(text: str, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        read_parameters([text])
