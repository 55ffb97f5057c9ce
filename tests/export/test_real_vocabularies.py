"""Real vocabularies, written by whet, read by llama.cpp: its own 47 cases, and prompts with special tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from real_files import VOCABULARIES, real_tokenizer, tokenizer_cases

from whet.export.gguf import write_gguf
from whet.export.tensors import CheckpointSource
from whet.llamacpp import LlamaServer

SIZES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
PROMPTS = {
    "llama-3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 12345?<|eot_id|>",
    "qwen2": "<|im_start|>user\nWas heißt 分类?<|im_end|>\n<|im_start|>assistant\n",
    "phi-3": "<|user|>\nHow many orders?<|end|>\n<|assistant|>\n  12<|end|>\n",
    "llama-2": "<s>[INST] How many  orders? [/INST] 12 </s><s>[INST] Why? [/INST]",
    "gemma": "<bos><|turn>user\nHow many\n\n\norders?   12\t<turn|>\n<|turn>model\n",
    "gpt-2": "one 12345<|endoftext|>two",
    "starcoder": "one 12345<|endoftext|>two",
}


def _written(tokenizer: Any, folder: Path) -> Path:
    """A model of one small layer with this vocabulary, as GGUF."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer) + 3, tie_word_embeddings=True, **SIZES)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return write_gguf(CheckpointSource(folder), folder, folder / "m.gguf", "f16", name="m")


@pytest.mark.parametrize("name", VOCABULARIES)
def test_llamacpp_tokenizes_with_our_vocabulary(name: str, needs_llamacpp: None, tmp_path: Path) -> None:
    tokenizer, cases = real_tokenizer(name), tokenizer_cases(name)
    assert len(cases) >= 45
    with LlamaServer(_written(tokenizer, tmp_path), n_ctx=64, threads=1) as server:
        wrong = [text for text, ids in cases if server.tokenize(text) != ids]
        assert wrong == []
        prompt = PROMPTS[name]
        assert server.tokenize(prompt) == tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert server.tokenize("a b", add_special=True) == tokenizer("a b")["input_ids"]
