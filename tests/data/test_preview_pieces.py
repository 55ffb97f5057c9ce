"""Tokens as text: whole characters, exact text, marks for what is invisible; for byte-level BPE and SentencePiece."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.audit_report import ShownPart
from whet.data.preview.marks import marked, shortened
from whet.data.preview.page import _part
from whet.data.preview.pieces import Piece, decode, pieces_of
from whet.data.preview.terminal import part_text
from whet.data.records import ChatRecord
from whet.data.tokens import RecordEncoder
from whet.models.load import tokenizer_of
from whet.text.encode import IGNORE

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("分类🙂👩‍👩‍👧é\n\t  <>[]")), max_size=60)


@pytest.fixture(scope="module")
def starter() -> Any:
    return tokenizer_of("starter")


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """A BPE tokenizer of Llama 2's kind: a marker for spaces, bytes for what it does not know, a bos token."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdehilmnorstuwy", "he", "▁he"]
    core = Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, [("h", "e"), ("▁", "he")], byte_fallback=True)
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_pieces_are_what_the_tokenizer_decodes(starter: Any, text: str) -> None:
    ids = starter(text)["input_ids"]
    pieces = pieces_of(starter, ids, [IGNORE] * len(ids))
    assert joined(pieces) == decode(starter, ids)
    assert [i for piece in pieces for i in piece.ids] == ids
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece.text for piece in pieces)


def test_a_character_of_several_tokens_is_one_piece(starter: Any) -> None:
    ids = starter("类🙂")["input_ids"]
    assert len(ids) > 3
    assert [piece.text for piece in pieces_of(starter, ids, ids)] == ["类", "🙂"]


@pytest.mark.parametrize("text", ["hello the world", "the  he", " he", "类 he 🙂", "a\n\nb", ""])
def test_sentencepiece(sentencepiece: Any, text: str) -> None:
    ids = [1, *sentencepiece(text)["input_ids"], 2]
    pieces = pieces_of(sentencepiece, ids, [IGNORE, *ids[1:]])
    assert joined(pieces) == decode(sentencepiece, ids)
    assert [piece.text for piece in pieces if piece.special] == ["<s>", "</s>"]
    assert [piece.trained for piece in pieces] == [False] + [True] * (len(pieces) - 1)


def test_a_long_text_is_the_same_text(starter: Any, shared: Any) -> None:
    """Longer than the tokens that are decoded together."""
    text = (shared / "data" / "corpus" / "public_domain_english.txt").read_text(encoding="utf-8")[40_000:46_000]
    ids = starter(text)["input_ids"]
    assert len(ids) > 1000
    assert joined(pieces_of(starter, ids, ids)) == text


def test_trained_pieces_are_the_answers_with_their_ends(starter: Any) -> None:
    record = ChatRecord(
        [
            {"role": "user", "content": "分类以下文本的情感。"},
            {"role": "assistant", "content": "积极"},
            {"role": "user", "content": "[[again]]"},
            {"role": "assistant", "content": "消极 🙂"},
        ]
    )
    encoded = RecordEncoder(starter)([record])[0]
    pieces = pieces_of(starter, encoded.ids, encoded.labels)
    assert joined([piece for piece in pieces if piece.trained]) == "积极<|im_end|>消极 🙂<|im_end|>"
    assert sum(piece.special for piece in pieces) == 8


@given(st.lists(st.tuples(TEXTS, st.booleans(), st.booleans()), max_size=8))
@settings(max_examples=150, deadline=None)
def test_marks_lose_nothing(parts: list[tuple[str, bool, bool]]) -> None:
    pieces = [Piece(text, (i,), trained, special) for i, (text, trained, special) in enumerate(parts)]
    stretches = marked(pieces)
    assert ["".join(stretch.text for stretch in found) for found in stretches] == [piece.text for piece in pieces]


def plain(*parts: tuple[str, bool]) -> str:
    pieces = tuple(Piece(text, (0,), trained, False) for text, trained in parts)
    return part_text(ShownPart("", pieces), plain=True).plain


def test_spaces_that_matter_are_visible() -> None:
    assert plain(("a b", False)) == "a b"
    assert plain(("a  b ", False)) == "a··b·"
    assert plain(("\n a\tb", False)) == "↵\n·a→\tb"
    assert plain(("SQL:", False), (" SELECT 1", True)) == "SQL:[[·SELECT 1]]"
    assert plain(("SQL: ", False), ("SELECT 1", True), (" x", False)) == "SQL:·[[SELECT 1]]·x"
    assert plain(("a\u200bb\u00a0c\x1b[31m", False)) == "a<U+200B>b<U+00A0>c<U+001B>[31m"


def test_long_runs_are_shortened_at_their_middle() -> None:
    pieces = [Piece(f"{i} ", (i,), i >= 100, False) for i in range(130)]
    found = list(shortened(pieces, longest=40, head=10, tail=5))
    assert [piece.text for piece, _, gap in found[:15] if piece] == [f"{i} " for i in (*range(10), *range(95, 99))]
    assert [gap for piece, _, gap in found if piece is None] == [85]
    assert sum(piece is not None and piece.trained for piece, _, _ in found) == 30


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "&lt;b&gt;", "\"'><img src=x>", "\x00\x1b\ud800"])
def test_the_page_escapes_everything(text: str) -> None:
    html = _part(ShownPart(text, (Piece(text, (1,), True, False),)))
    assert "<script" not in html and "<img" not in html
    assert html.isprintable() and html.encode("utf-8")


def test_random_ids_never_fail(starter: Any) -> None:
    """Any ids, also ones that are no valid UTF-8 together."""
    draw = random.Random(7)
    for _ in range(30):
        ids = [draw.randrange(len(starter)) for _ in range(40)]
        pieces = pieces_of(starter, ids, ids)
        assert [i for piece in pieces for i in piece.ids] == ids
