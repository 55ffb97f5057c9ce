from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from whet.errors import ExportError
from whet.export.merged import write_merged
from whet.export.tensors import CheckpointSource


def test_shards_read_like_one_file(tiny_llama_dir: Path, tmp_path: Path) -> None:
    whole = CheckpointSource(tiny_llama_dir)
    write_merged(whole, tmp_path / "shards", "float32", shard_bytes=2_000_000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    shards = CheckpointSource(tmp_path / "shards")
    assert shards.names() == whole.names()
    assert all(torch.equal(shards.get(name), whole.get(name)) for name in whole.names())


def test_a_tied_head_is_not_listed(tiny_llama_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_llama_dir, tmp_path / "with-head")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert CheckpointSource(folder).names() == CheckpointSource(tiny_llama_dir).names()


def test_a_quantised_base_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "nf4")
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    with pytest.raises(ExportError, match="bitsandbytes") as caught:
        CheckpointSource(folder)
    assert "16-bit" in str(caught.value)


def test_missing_and_damaged_weights(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "damaged")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ExportError, match=r"cannot read .*model\.safetensors"):
        CheckpointSource(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="no weights"):
        CheckpointSource(folder)
    with pytest.raises(ExportError, match=r"no config\.json"):
        CheckpointSource(tmp_path)
