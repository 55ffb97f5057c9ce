from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from whet.errors import ExportError, OutputError
from whet.export.adapter import resolve_source
from whet.export.merged import write_merged


def test_loads_in_transformers_with_tokenizer_and_end_token(
    tiny_llama_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, tokenizer_dir = resolve_source(make_adapter(tiny_llama_dir))
    folder = write_merged(source, tmp_path / "merged", tokenizer_dir=tokenizer_dir)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_llama_dir).chat_template
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == tokenizer.eos_token_id
    want = source.get("model.layers.0.self_attn.q_proj.weight").bfloat16()
    assert torch.equal(model.state_dict()["model.layers.0.self_attn.q_proj.weight"], want)


def test_nothing_is_left_where_the_folder_cannot_be(tiny_llama_dir: Path, tmp_path: Path) -> None:
    source, _ = resolve_source(tiny_llama_dir)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        write_merged(source, tmp_path / "file" / "merged")
    with pytest.raises(ExportError, match="int4"):
        write_merged(source, tmp_path / "merged", "int4")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
