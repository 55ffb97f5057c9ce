"""Loading: models, tokenizers, adapters, and what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import whet
from whet import console, runtime
from whet.errors import ModelError
from whet.models.adapters import add_lora
from whet.models.load import config_of, context_length, load_for_inference, load_model, load_tokenizer

on_cpu = pytest.mark.skipif(runtime.device().type != "cpu", reason="about machines without a GPU")


@pytest.fixture(autouse=True)
def _new_notices() -> None:
    console.forget_notices()


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@on_cpu
def test_a_folder_loads_as_transformers_loads_it(tiny_llama_dir: Path) -> None:
    model, tokenizer = load_model(str(tiny_llama_dir))
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    assert not model.training and model.dtype == torch.float32
    for name, parameter in plain.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")


def test_the_starter_loads_by_name_and_through_plain_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = load_model("starter")
    folder = whet.starter_path()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    ids_BT = torch.tensor([AutoTokenizer.from_pretrained(folder)("How many orders?")["input_ids"]])
    assert tokenizer("How many orders?")["input_ids"] == ids_BT[0].tolist()
    with torch.no_grad():
        assert torch.equal(model(ids_BT.to(model.device)).logits.cpu(), plain(ids_BT).logits)
    assert model.name_or_path == model.config._name_or_path == "starter"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_the_starter_is_as_small_as_promised() -> None:
    folder = whet.starter_path()
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= 24e6
    config = config_of("starter")
    model, tokenizer = load_model("starter")
    assert sum(p.numel() for p in model.parameters()) <= 12e6
    assert config.max_position_embeddings >= 2048 and 4000 <= len(tokenizer) <= 8192
    assert all(p.shape[1] % 256 == 0 for p in model.parameters() if p.dim() == 2)


@on_cpu
def test_what_a_cpu_cannot_is_said_once_and_left_out(tiny_llama_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        model, _tokenizer = load_model(str(tiny_llama_dir), dtype=torch.float16, load_in_4bit=True)
        assert model.dtype == torch.float32
    said = capsys.readouterr().err
    assert said.count("4-bit weights need an NVIDIA GPU") == 1
    assert said.count("weights are held in float32") == 1


def test_an_adapter_loads_on_its_base(tiny_llama_dir: Path, tmp_path: Path) -> None:
    base, tokenizer = load_model(str(tiny_llama_dir))
    model = add_lora(base, rank=4, init_lora_weights=False)
    model.save_pretrained(tmp_path / "adapter")
    expected = {n: p for n, p in parameters_of(model).items() if "lora_" in n}
    for trainable in (False, True):
        loaded, _ = load_model(str(tmp_path / "adapter"), trainable_adapter=trainable)
        found = {n: p for n, p in loaded.named_parameters() if "lora_" in n}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert {p.requires_grad for p in found.values()} == {trainable}
    chatted, own = load_for_inference(str(tmp_path / "adapter"))
    assert not chatted.training and own.get_vocab() == tokenizer.get_vocab()


def test_an_adapter_of_another_shape_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    base, _ = load_model(str(tiny_llama_dir))
    add_lora(base, rank=4).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "r": 8}))
    with pytest.raises(ModelError, match="does not load"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("damage", ["weights", "config", "tokenizer"])
def test_a_damaged_folder_is_one_clear_message(tiny_llama_dir: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "model")
    if damage == "weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "config":
        (folder / "config.json").write_text('{"model_type": "of-nobody"}')
    else:
        (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="does not load") as caught:
        load_model(str(folder))
    assert str(folder) in caught.value.given


def test_a_tokenizer_without_pad_token_gets_one(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    assert load_tokenizer(str(folder), {}).pad_token == "<|pad|>"


def test_context_length_is_clamped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    config = LlamaConfig(max_position_embeddings=512)
    assert context_length(config, 256) == 256
    assert capsys.readouterr().err == ""
    assert context_length(config, 4096) == 512
    assert "at most 512 tokens: 4,096" in capsys.readouterr().err


def test_a_cut_off_adapter_is_one_clear_message(tiny_llama_dir: Path, tmp_path: Path) -> None:
    base, _ = load_model(str(tiny_llama_dir))
    add_lora(base, rank=4).save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not load"):
        load_model(str(tmp_path))


def test_a_model_that_the_gpu_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More words")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(
        ModelError, match=r"starter takes \d+ MiB in this format.*CUDA out of memory\)\n.*\n.*to talk to it"
    ):
        load_model("starter")
