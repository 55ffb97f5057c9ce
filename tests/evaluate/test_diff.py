from __future__ import annotations

import random

import pytest

from whet.evaluate.diff import word_diff, words

TEXTS = [
    "",
    "a",
    "The quick  brown fox.\n\tjumps",
    "分类以下文本的情感。 abc",
    "مَرْحَبًا بِكَ يا صديقي",
    "हिन्दी में लिखा",
    "สวัสดีชาวโลก",
    "안녕하세요 세계",
    "don't re-do 3.14 e\u0301te\u0301",
    "می\u200cخواهم 👩\u200d💻 ok",
]


def test_words_keep_every_character():
    for text in TEXTS:
        assert "".join(words(text)) == text


def test_scripts():
    assert list(words("The quick  fox.")) == ["The", " ", "quick", "  ", "fox", "."]
    assert list(words("情感 ok。")) == ["情", "感", " ", "ok", "。"]
    assert list(words("مَرْحَبًا بك")) == ["مَرْحَبًا", " ", "بك"]  # vowel signs stay in their word
    assert list(words("हिन्दी में")) == ["हिन्दी", " ", "में"]
    assert list(words("안녕 세계")) == ["안녕", " ", "세계"]
    assert list(words("don't")) == ["don't"]
    assert list(words("กำ")) == ["ก", "ำ"] or list(words("กำ")) == ["กำ"]
    assert list(words("e\u0301t")) == ["e\u0301t"]


def test_what_is_marked():
    left, right = word_diff("the cat sat", "the dog sat down")
    assert [piece.text for piece in left if not piece.same] == ["cat"]
    assert [piece.text for piece in right if not piece.same] == ["dog", " down"]
    left, right = word_diff("积极的", "消极的")
    assert [piece.text for piece in left if not piece.same] == ["积"]
    assert [piece.text for piece in right if not piece.same] == ["消"]
    assert word_diff("same", "same")[0][0].same


@pytest.mark.parametrize("seed", range(5))
def test_pieces_join_to_the_texts_and_equal_pieces_are_the_same(seed: int):
    draw = random.Random(seed)
    alphabet = ["ab", "c", " ", "\n", "情", "é", "ม", "!"]
    for _ in range(40):
        first, second = ("".join(draw.choices(alphabet, k=draw.randrange(30))) for _ in range(2))
        left, right = word_diff(first, second)
        assert "".join(piece.text for piece in left) == first
        assert "".join(piece.text for piece in right) == second
        assert [p.text for p in left if p.same] == [p.text for p in right if p.same]


def test_long_texts_are_compared_by_lines():
    first = "word and word\n" * 2000
    left, right = word_diff(first, first + "new line\n")
    assert [piece.text for piece in right if not piece.same] == ["new line\n"] and all(piece.same for piece in left)
