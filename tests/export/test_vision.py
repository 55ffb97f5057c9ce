"""A model that also sees: its language model is what the file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_tokenizers as small
import torch
from conftest import THREADS

from whet.export.folder import write_exports
from whet.export.tensors import CheckpointSource
from whet.export.verify import verify_gguf

TEXT = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 24,
    "max_position_embeddings": 512,
}  # fmt: skip
SIGHT = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


def test_the_language_model_inside_is_written(
    needs_llamacpp: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer, Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(7)
    tokenizer = small.gemma()
    text = TEXT | {"vocab_size": len(tokenizer) + 5, "eos_token_id": 1, "bos_token_id": 2}
    config = Gemma3Config(text_config=text, vision_config=SIGHT, mm_tokens_per_image=4, eos_token_id=1)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    (done,) = write_exports(CheckpointSource(tmp_path), tmp_path, tmp_path / "out", ["f16"], name="m")
    assert "vision part is left out" in capsys.readouterr().err
    assert verify_gguf(done.gguf, model, tokenizer, positions=10, threads=THREADS).passed
