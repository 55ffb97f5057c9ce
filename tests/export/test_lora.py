from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from whet.errors import ExportError
from whet.export.lora import AdapterSource
from whet.export.merged import write_merged
from whet.export.tensors import CheckpointSource

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 4, "layers.1.mlp.down_proj": 2}, "alpha_pattern": {"layers.0.*q_proj": 3}},
    "biases": {"bias": "all"},
    "dora": {"use_dora": True},
    "dora with rslora": {"use_dora": True, "use_rslora": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "saved embedding": {"modules_to_save": ["embed_tokens"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved both": {"modules_to_save": ["embed_tokens", "lm_head"]},
}
IDS = torch.tensor([[1, 88, 86, 260, 202, 306, 2, 50, 60, 70, 80]])


@pytest.mark.parametrize("kind", KINDS)
def test_merged_model_is_the_adapted_model(
    kind: str, tiny_qwen2_dir: Path, make_adapter: Callable[..., Path], load_float32: Callable[..., Any], tmp_path: Path
) -> None:
    """Merged by us and loaded by transformers, against PEFT's own forward with the adapter on top."""
    adapter = make_adapter(tiny_qwen2_dir, **KINDS[kind])
    source = AdapterSource(CheckpointSource(tiny_qwen2_dir), adapter)
    write_merged(source, tmp_path / "merged", "float32", adapter)
    with torch.no_grad():
        base = load_float32(tiny_qwen2_dir)(IDS).logits
        want = load_float32(tiny_qwen2_dir, adapter)(IDS).logits
        got = load_float32(tmp_path / "merged")(IDS).logits
    assert (want - base).abs().max() > 1e-2  # the adapter does something
    torch.testing.assert_close(got, want, atol=2e-5, rtol=0)


def test_shapes_are_known_without_reading(tiny_llama_dir: Path, make_adapter: Callable[..., Path]) -> None:
    source = AdapterSource(CheckpointSource(tiny_llama_dir), make_adapter(tiny_llama_dir))
    assert {name: source.shape(name) for name in source.names()} == {
        name: tuple(source.get(name).shape) for name in source.names()
    }


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"use_dora": True, "fan_in_fan_out": True}, "DoRA"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
    ],
)
def test_other_methods_are_refused_by_name(
    change: dict[str, Any], word: str, tiny_llama_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = shutil.copytree(make_adapter(tiny_llama_dir), tmp_path / "changed")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ExportError, match=word):
        AdapterSource(CheckpointSource(tiny_llama_dir), adapter)


def test_adapter_of_another_model_is_refused(
    tiny_llama_dir: Path, tiny_qwen2_dir: Path, make_adapter: Callable[..., Path]
) -> None:
    adapter = make_adapter(tiny_qwen2_dir, bias="all")  # Llama has no biases
    with pytest.raises(ExportError, match="does not have"):
        AdapterSource(CheckpointSource(tiny_llama_dir), adapter)


def test_half_an_adapter_is_refused(tiny_llama_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = shutil.copytree(make_adapter(tiny_llama_dir), tmp_path / "half")
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ExportError, match="half"):
        AdapterSource(CheckpointSource(tiny_llama_dir), adapter)
