"""LoRA on a loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from whet.errors import ModelError
from whet.models.adapters import ALL_LINEAR, add_lora, parameter_counts


@pytest.fixture
def base(tiny_llama_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


def test_only_the_adapter_is_trained_and_the_model_is_unchanged(base: Any) -> None:
    ids_BT = torch.arange(4, 20)[None]
    with torch.no_grad():
        before = base(ids_BT).logits
    model = add_lora(base, rank=4)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert isinstance(model, PeftModel) and all("lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained} == set(ALL_LINEAR)
    with torch.no_grad():
        assert torch.equal(model(ids_BT).logits, before)
    sizes = parameter_counts(model)
    assert sizes[0] == sum(p.numel() for p in adapter_of(model).values()) < sizes[1]


def test_the_seed_decides_and_the_callers_random_state_stays(tiny_llama_dir: Path) -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        model = add_lora(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), rank=4, seed=seed)
        drawn.append(torch.rand(1).item())
        return adapter_of(model)

    drawn: list[float] = []
    first, again, other = made(1), made(1), made(2)
    torch.manual_seed(5)
    assert drawn == [torch.rand(1).item()] * 3
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_adapters_are_float32_on_a_bfloat16_model(tiny_llama_dir: Path) -> None:
    model = add_lora(AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.bfloat16), rank=4)
    assert {p.dtype for p in adapter_of(model).values()} == {torch.float32}
    assert model.get_base_model().get_input_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 16), (True, 8 / 4)])
def test_scaling(base: Any, rslora: bool, scale: float) -> None:
    model = add_lora(base, rank=16, alpha=8, use_rslora=rslora, init_lora_weights=False)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(scale)
    x_BD = torch.randn(3, 256)
    product = x_BD @ layer.lora_A["default"].weight.T @ layer.lora_B["default"].weight.T
    assert torch.allclose(layer(x_BD), layer.base_layer(x_BD) + scale * product, atol=1e-5)


def test_some_layers_and_some_modules(base: Any) -> None:
    model = add_lora(base, rank=2, target_modules=["q_proj"], layers_to_transform=[1], modules_to_save=["lm_head"])
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name in names if "lora_" in name] and all(
        "layers.1.self_attn.q_proj" in name for name in names if "lora_" in name
    )
    assert any("lm_head" in name and "modules_to_save" in name for name in names)


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj"])
def test_a_pattern_of_layers(base: Any, targets: str) -> None:
    assert adapter_of(add_lora(base, rank=2, target_modules=targets))


def test_no_such_layer(base: Any) -> None:
    with pytest.raises(ModelError, match="no adapter can be added") as caught:
        add_lora(base, target_modules=["c_attn"])
    assert "q_proj" in caught.value.expected


def test_a_second_adapter_is_refused(base: Any) -> None:
    with pytest.raises(ModelError, match="has an adapter already"):
        add_lora(add_lora(base, rank=2))


def test_a_saved_adapter_holds_what_is_trained_and_nothing_of_the_base(base: Any, tmp_path: Path) -> None:
    model = add_lora(base, rank=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        found = set(file.keys())
    assert len([name for name in found if "q_proj.lora_" in name]) == 4
    assert {name for name in found if "lora_" not in name} == {"base_model.model.lm_head.weight"}
