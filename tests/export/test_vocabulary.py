"""Tokenizers of every splitting rule that has a name, against llama.cpp's own tokenization."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from whet.errors import ExportError
from whet.export import pretokenizers
from whet.export.gguf import write_gguf
from whet.export.pretokenizers import PRE_TOKENIZERS, pre_tokenizer_name
from whet.export.tensors import CheckpointSource
from whet.export.vocabulary import read_vocabulary
from whet.llamacpp import LlamaServer

TEXTS = [
    "The quick brown fox's 12345 orders; we'LL ship 3.14159 of 1,000,000!",
    "SELECT  count(*)\n\n\tFROM orders  WHERE x<=3;\r\n   ",
    "def f(a_b):\n    return a_b**2  # it's\n\n\n",
    "Größe ÄÖÜ naïve Привет мир 你好世界 日本語 한국어 🙂👍🏽 ñandú",
    "<|im_start|>user\nhi<|im_end|>\n<tool>x</tool> a<tool> b",
    "camelCaseWORDSAndMore don't I'M you're 's",
    " ",
    "   leading and trailing   ",
]


def _steps(steps: tuple[str, ...]) -> Any:
    if steps == (pretokenizers.GPT2,):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if steps == (pretokenizers.DIGIT, pretokenizers.GPT2):
        digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        return pre_tokenizers.Sequence([digits, level])
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(steps[0]), behavior="isolated"), level])


def _tokenizer(folder: Path, steps: tuple[str, ...], whole_words: bool, bos: bool = False) -> Any:
    """A byte-level BPE tokenizer trained on the texts, with special and plain added tokens."""
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(ignore_merges=whole_words))
    core.pre_tokenizer, core.decoder = _steps(steps), decoders.ByteLevel()
    specials = ["<|begin|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS * 3, trainer)
    core.add_tokens(["<tool>", "</tool>"])
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", bos_token="<|begin|>" if bos else None
    )
    fast.save_pretrained(folder)
    return fast


@pytest.mark.parametrize(("rule", "name"), PRE_TOKENIZERS.items(), ids=PRE_TOKENIZERS.values())
def test_llamacpp_splits_text_the_same_way(
    rule: tuple[tuple[str, ...], bool], name: str, needs_llamacpp: None, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(tmp_path, *rule, bos=name in ("llama-bpe", "tekken"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 7, **sizes)).save_pretrained(tmp_path)
    file = write_gguf(CheckpointSource(tmp_path), tmp_path, tmp_path / "t.gguf", "f32", name="t")
    with LlamaServer(file, n_ctx=64, threads=1) as server:
        for text in TEXTS:
            assert server.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
            assert server.tokenize(text, add_special=True) == tokenizer(text)["input_ids"]


def test_types_padding_and_ends(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path, (pretokenizers.GPT2,), False, bos=True)
    size = len(tokenizer)
    found = read_vocabulary(tmp_path, size + 2, eot_token="<|im_start|>")
    assert found.tokens[-2:] == [f"[PAD{size}]", f"[PAD{size + 1}]"]
    assert found.types[-2:] == [gguf.TokenType.UNUSED] * 2
    assert found.types[:3] == [gguf.TokenType.CONTROL] * 3
    assert found.types[tokenizer.convert_tokens_to_ids("<tool>")] == gguf.TokenType.USER_DEFINED
    assert (found.bos_id, found.eos_id, found.eot_id) == (0, 2, 1)
    assert (found.add_bos, found.add_eos) == (True, False)
    assert read_vocabulary(tmp_path, size, eot_token="<|im_end|>").eot_id is None  # eos says it already


def test_what_llamacpp_would_read_differently_is_refused(tmp_path: Path) -> None:
    tokenizer = _tokenizer(tmp_path, (pretokenizers.GPT2,), False)
    with pytest.raises(ExportError, match="rows"):
        read_vocabulary(tmp_path, len(tokenizer) - 1)
    core = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(core | {"pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(ExportError, match="no name in llama"):
        read_vocabulary(tmp_path, 600)
    (tmp_path / "tokenizer.json").write_text(json.dumps(core | {"decoder": {"type": "Fuse"}}))
    with pytest.raises(ExportError, match="byte-level"):
        read_vocabulary(tmp_path, 600)
    (tmp_path / "tokenizer.json").write_text(json.dumps(core))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError, match="eos_token"):
        read_vocabulary(tmp_path, 600)


def test_the_rule_is_the_one_that_transformers_uses(tiny_qwen2_dir: Path) -> None:
    """The file says GPT-2's rule; beside a Qwen2 config transformers 5 loads it with Qwen2's."""
    assert pre_tokenizer_name(json.loads((tiny_qwen2_dir / "tokenizer.json").read_text())) == "gpt-2"
    assert read_vocabulary(tiny_qwen2_dir, 400).pre == "qwen2"


def test_chat_template_in_either_place(tiny_llama_dir: Path, tmp_path: Path) -> None:
    want = read_vocabulary(tiny_llama_dir, 400).chat_template
    assert want == (tiny_llama_dir / "chat_template.jinja").read_text()
    older = shutil.copytree(tiny_llama_dir, tmp_path / "older")
    (older / "chat_template.jinja").unlink()
    assert read_vocabulary(older, 400).chat_template is None
    settings = json.loads((older / "tokenizer_config.json").read_text())
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": want}]
    for saved in (want, several):
        (older / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": saved}))
        assert read_vocabulary(older, 400).chat_template == want
