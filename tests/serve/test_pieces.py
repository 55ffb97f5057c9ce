from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from whet.models.names import starter_folder
from whet.serve.pieces import TextPieces

TEXTS = ["SELECT name\n  FROM t;", "分类以下文本 🙂🙃 déjà", "  two  spaces ", "a\n\n\tb", "🏳️‍🌈"]


def _bytes() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(starter_folder())


def _spaces() -> PreTrainedTokenizerFast:
    """Words with a space mark, unknown characters as bytes: as in Llama 2's tokenizer."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<unk>", "</s>"], show_progress=False)
    core.train_from_iterator(["SELECT name FROM two spaces"] * 3, trainer)
    core.add_tokens(byte_tokens)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


@pytest.mark.parametrize("tokenizer", [_bytes(), _spaces()], ids=["bytes", "spaces"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_whole_text(tokenizer, text: str):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = TextPieces(tokenizer)
    said = [pieces.push(token) for token in ids] + [pieces.rest()]
    assert "".join(said) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_of_several_tokens_comes_whole_and_special_tokens_are_silent():
    tokenizer = _bytes()
    ids = [*tokenizer("🙂")["input_ids"], tokenizer.pad_token_id, *tokenizer("ok")["input_ids"]]
    pieces = TextPieces(tokenizer)
    said = [piece for piece in map(pieces.push, ids) if piece]
    assert said[0] == "🙂" and "".join(said) == "🙂ok"


def test_bytes_that_never_become_a_character_do_not_hold_back_the_rest():
    tokenizer = _bytes()
    broken = tokenizer("🙂")["input_ids"][0]
    pieces = TextPieces(tokenizer)
    assert any(pieces.push(broken) for _ in range(8))
