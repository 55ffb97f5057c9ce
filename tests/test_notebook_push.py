"""``push_to_hub`` and its kin on a model in memory, against a server that speaks the hub's calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from whet import FastLanguageModel
from whet.errors import ExportError, WhetError
from whet.llamacpp import available

sys.path.insert(0, str(Path(__file__).parent / "export"))
from hub_server import TOKEN, Hub, running_hub


@pytest.fixture(scope="module")
def tuned() -> tuple[Any, Any]:
    """The starter with a LoRA that does something."""
    torch.manual_seed(3)
    model, tokenizer = FastLanguageModel.from_pretrained("starter", max_seq_length=256)
    model = FastLanguageModel.get_peft_model(model, r=4, lora_alpha=8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return model, tokenizer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server in the place of the hub, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    with running_hub() as found:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield found


def test_adapter_and_tokenizer_as_the_tutorials_type_it(tuned: tuple[Any, Any], hub: Hub, tmp_path: Path) -> None:
    model, tokenizer = tuned
    assert model.push_to_hub("me/lora", token=TOKEN) == f"{hub.url}/me/lora"
    assert hub.repos["me/lora"].private
    assert tokenizer.push_to_hub("me/lora", token=TOKEN)
    tokenizer.push_to_hub("me/tokenizer-first", token=TOKEN)
    assert hub.repos["me/tokenizer-first"].private
    for name in hub.repos["me/lora"].files:
        (tmp_path / name).write_bytes(hub.content("me/lora", name))
    card = (tmp_path / "README.md").read_text()
    assert "library_name: peft" in card and "license: apache-2.0" in card and "rank 4, alpha 8" in card
    again, _ = FastLanguageModel.from_pretrained(str(tmp_path), max_seq_length=256)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        assert torch.allclose(again.eval()(ids).logits, model.eval()(ids).logits, atol=1e-4)
    assert list(tmp_path.glob(".push-*")) == []


@pytest.mark.skipif(not available(), reason="xllamacpp is not installed")
def test_merged_and_gguf(tuned: tuple[Any, Any], hub: Hub) -> None:
    model, tokenizer = tuned
    model.push_to_hub_merged("me/merged", tokenizer, save_method="merged_16bit", token=TOKEN, private=False)
    assert not hub.repos["me/merged"].private
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(hub.repos["me/merged"].files)
    model.push_to_hub_gguf("me/gguf", tokenizer, quantization_method=["q8_0", "f16"], token=TOKEN)
    files = hub.repos["me/gguf"].files
    assert {"model.q8_0.gguf", "model.f16.gguf", "Modelfile", "params", "model.q8_0.gguf.verify.json"} <= set(files)
    assert hub.content("me/gguf", "model.f16.gguf").startswith(b"GGUF")
    assert json.loads(hub.content("me/gguf", "params"))["num_ctx"] == 256
    assert not any(TOKEN.encode() in hub.content("me/gguf", name) for name in files)


def test_what_is_wrong_is_said_before_the_work(
    tuned: tuple[Any, Any], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tuned
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for call in (
        lambda: model.push_to_hub("me/m", token=""),
        lambda: model.push_to_hub_merged("me/m", tokenizer, token=""),
        lambda: model.push_to_hub_gguf("me/m", tokenizer, token=""),
        lambda: tokenizer.push_to_hub("me/m"),
    ):
        with pytest.raises(ExportError, match="nobody is logged in"):
            call()
    with pytest.raises(ExportError, match="owner/name"):
        model.push_to_hub_gguf("a/b/c", tokenizer, token=TOKEN)
    with pytest.raises(WhetError, match="quantization_method"):
        model.push_to_hub_gguf("me/m", tokenizer, quantisation_method="q8_0", token=TOKEN)
    with pytest.raises(WhetError, match="merged_16bit"):
        model.push_to_hub_merged("me/m", tokenizer, save_method="merged_4bit", token=TOKEN)
    assert hub.calls == []
