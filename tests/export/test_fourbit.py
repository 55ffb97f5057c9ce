"""NF4 checkpoints as an export reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from whet.engine.kernels.nf4 import Nf4Weight, dequantise_nf4_plain, table
from whet.engine.quantised import quantise_nf4
from whet.errors import ExportError
from whet.export.adapter import find_origin
from whet.export.reference import load_reference
from whet.export.run import export_run
from whet.export.tensors import open_checkpoint
from whet.models.load import load_tokenizer

NAME = "model.layers.0.mlp.down_proj.weight"


def packed(name: str, weight: Nf4Weight, kind: str = "nf4") -> dict[str, torch.Tensor]:
    """A weight's tensors as bitsandbytes names and stores them."""
    state: dict[str, Any] = {"quant_type": kind, "blocksize": weight.block, "dtype": str(weight.dtype)[6:]}
    state["shape"] = list(weight.shape)
    parts = {"": weight.packed[:, None], ".absmax": weight.absmax, ".quant_map": table(torch.device("cpu"))}
    if weight.nested is not None:
        state |= {"nested_blocksize": weight.nested.block, "nested_dtype": "float32"}
        state["nested_offset"] = float(weight.nested.offset)
        parts |= {".nested_absmax": weight.nested.absmax, ".nested_quant_map": weight.nested.code}
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return {name + part: tensor.clone() for part, tensor in parts.items()} | {
        f"{name}.quant_state.bitsandbytes__{kind}": text
    }


def quantise(source: Path, target: Path, double: bool = True, kind: str = "nf4") -> dict[str, torch.Tensor]:
    """A copy of a checkpoint with its linear layers in NF4; returns the values that they stand for."""
    shutil.copytree(source, target)
    stored: dict[str, torch.Tensor] = {}
    values: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            stored[name] = tensor.bfloat16()
            values[name] = stored[name].float()
            continue
        weight = quantise_nf4(tensor.bfloat16(), double)
        stored |= packed(name, weight, kind)
        values[name] = torch.empty(weight.shape)
        dequantise_nf4_plain(weight, values[name])
    save_file(stored, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    (target / "config.json").write_text(json.dumps(config))
    return values


@pytest.mark.parametrize("double", [False, True])
def test_values_and_shapes(double: bool, tiny_llama_dir: Path, tmp_path: Path) -> None:
    values = quantise(tiny_llama_dir, tmp_path / "m-bnb-4bit", double)
    source = open_checkpoint(tmp_path / "m-bnb-4bit")
    assert set(source.names()) == set(values)
    assert "quantization_config" not in source.config
    for name in source.names():
        assert source.shape(name) == tuple(values[name].shape)
        assert torch.equal(source.get(name), values[name])


def test_other_kinds_and_damage_are_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    quantise(tiny_llama_dir, tmp_path / "fp4", kind="fp4")
    with pytest.raises(ExportError, match="FP4"):
        open_checkpoint(tmp_path / "fp4")
    quantise(tiny_llama_dir, tmp_path / "half")
    weights = load_file(tmp_path / "half/model.safetensors")
    del weights[NAME + ".absmax"]
    save_file(weights, tmp_path / "half/model.safetensors")
    with pytest.raises(ExportError, match="a part of"):
        open_checkpoint(tmp_path / "half")
    config = json.loads((tmp_path / "half/config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (tmp_path / "half/config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="16-bit base"):
        open_checkpoint(tmp_path / "half")


def on_base(adapter: Path, base: Path, target: Path) -> Path:
    shutil.copytree(adapter, target)
    file = target / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(base)}))
    return target


def test_an_adapter_on_a_four_bit_base_alone_is_merged_into_its_values_and_proved(
    tiny_llama_dir: Path,
    make_adapter: Callable[..., Path],
    needs_llamacpp: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No bitsandbytes here: the trained model, too, is read by whet, layer by layer."""
    values = quantise(tiny_llama_dir, tmp_path / "only-bnb-4bit")
    adapter = on_base(make_adapter(tiny_llama_dir), tmp_path / "only-bnb-4bit", tmp_path / "adapter")
    report = export_run(adapter, tmp_path / "out", ["f32"], positions=12, threads=1)
    said = capsys.readouterr().err
    assert "4-bit weights (NF4)" in said and "--base" in said
    report.check()
    assert report.files[0].verdict.max_abs_logprob_diff <= 1e-3
    origin = find_origin(adapter)
    assert load_reference(origin, str(adapter)).streamed
    change = origin.source.get(NAME) - values[NAME]
    assert change.abs().max() > 0.01  # the adapter's, on the 4-bit values


def test_the_sixteen_bit_twin_is_taken_where_it_is(
    tiny_llama_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantise(tiny_llama_dir, tmp_path / "m-bnb-4bit")
    shutil.copytree(tiny_llama_dir, tmp_path / "m")
    adapter = on_base(make_adapter(tiny_llama_dir), tmp_path / "m-bnb-4bit", tmp_path / "adapter")
    origin = find_origin(adapter)
    assert origin.place.base == str(tmp_path / "m")
    assert "in 16 bit" in capsys.readouterr().err
    exact = load_file(tiny_llama_dir / "model.safetensors")["model.norm.weight"]
    assert torch.equal(origin.base.get("model.norm.weight"), exact.float())
    named = find_origin(adapter, base=tiny_llama_dir)
    assert named.place.base == str(tiny_llama_dir)
    with pytest.raises(ExportError, match="no adapter"):
        find_origin(tiny_llama_dir, base=tiny_llama_dir)
    assert load_tokenizer(str(named.tokenizer_dir), {}).chat_template
