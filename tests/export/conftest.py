"""Models to export: the shared tiny ones, made sharper, with adapters, and with other tokenizers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

THREADS = 1  # llama.cpp's threads in tests: the machine is shared


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Torch's threads wait for each other where other programs use the cores too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def needs_llamacpp() -> None:
    """Skip where llama.cpp has no wheel; the missing case has tests of its own."""
    from whet.llamacpp import available

    if not available():
        pytest.skip("xllamacpp is not installed")


@pytest.fixture(scope="session")
def sharp_llama_dir(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with larger weights, so that a wrong row or a wrong rotation shows in the logits."""
    return _sharper(tiny_llama_dir, tmp_path_factory.mktemp("sharp") / "sharp-llama")


@pytest.fixture(scope="session")
def sharp_qwen2_dir(tiny_qwen2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen2 with larger weights."""
    return _sharper(tiny_qwen2_dir, tmp_path_factory.mktemp("sharp") / "sharp-qwen2")


def _sharper(source: Path, target: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("proj.weight"):
            weight *= 4.0
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make(base_folder, **LoraConfig arguments): an adapter folder that PEFT wrote, with random factors."""

    def make(base: Path, **settings: Any) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        settings = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"]} | settings
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if parameter.requires_grad and "lora_" not in name:
                    parameter.add_(0.05 * torch.randn_like(parameter))
                elif parameter.requires_grad:
                    parameter.normal_(std=0.1)
        folder = tmp_path_factory.mktemp("adapter") / "adapter"
        tuned.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def load_float32() -> Callable[..., Any]:
    """load(folder, adapter=None): a transformers model in float32, the adapter on top and not merged."""

    def load(folder: Path, adapter: Path | None = None) -> Any:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return (model if adapter is None else PeftModel.from_pretrained(model, str(adapter))).eval()

    return load
