"""Merged folders, adapters, and adapters as GGUF; what cannot be is refused before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import THREADS
from safetensors.torch import load_file, save_file

from whet.errors import ExportError
from whet.export.prove import Proof
from whet.export.run import export_run


@pytest.fixture
def run_folder(sharp_llama_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    shutil.copytree(make_adapter(sharp_llama_dir), folder / "adapter")
    (folder / "config.yml").write_text("base_model: tiny\nsequence_len: 384\n")
    return folder


def test_merged(run_folder: Path, sharp_llama_dir: Path, load_float32: Callable[..., Any]) -> None:
    report = export_run(run_folder, to="merged", dtype="float32", positions=8)
    report.check()
    [file] = report.files
    assert (file.path, file.modelfile) == (run_folder / "merged", None)
    assert file.verdict.quant == "f32"
    ids = torch.tensor([[5, 17, 300, 42, 9]])
    with torch.no_grad():
        want = load_float32(sharp_llama_dir, run_folder / "adapter")(ids).logits
        torch.testing.assert_close(load_float32(file.path)(ids).logits, want, atol=1e-4, rtol=0)
    assert json.loads(Path(f"{file.path}.verify.json").read_text())["passed"] is True


def test_sixteen_bits_by_default(run_folder: Path) -> None:
    report = export_run(run_folder, to="merged", positions=8)
    report.check()
    assert report.files[0].verdict.quant == "bf16"
    weights = load_file(run_folder / "merged/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_a_wrong_merge_fails(run_folder: Path, sharp_llama_dir: Path) -> None:
    export_run(run_folder, to="merged", proof=False)
    weights = load_file(run_folder / "merged/model.safetensors")
    base = load_file(sharp_llama_dir / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = base[name].bfloat16()  # one change forgotten
    save_file(weights, run_folder / "merged/model.safetensors", metadata={"format": "pt"})
    verdict = Proof(run_folder, positions=8).of(run_folder / "merged")
    assert not verdict.passed
    assert "mean KL, nats" in verdict.failed


def test_a_merged_folder_with_another_end_token_fails(run_folder: Path) -> None:
    export_run(run_folder, to="merged", proof=False)
    file = run_folder / "merged/tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": "<|endoftext|>"}))
    verdict = Proof(run_folder, positions=8).of(run_folder / "merged")
    assert "end token" in verdict.failed


def test_adapter(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = export_run(run_folder, to="adapter")
    assert report.files[0].copied and report.exit_code == 0
    report.print()
    assert "same bytes" in capsys.readouterr().out
    copied = run_folder / "peft-adapter"
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (copied / name).read_bytes() == (run_folder / "adapter" / name).read_bytes()
    assert Proof(run_folder, positions=8).of(copied).passed
    weights = load_file(copied / "adapter_model.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in weights.items()}, copied / "adapter_model.safetensors")
    assert not Proof(run_folder, positions=8).of(copied).passed


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.*down_proj": 3}},
    "all linear": {"target_modules": "all-linear"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_adapter_gguf(
    kind: str,
    family: str,
    request: pytest.FixtureRequest,
    make_adapter: Callable[..., Path],
    needs_llamacpp: None,
    tmp_path: Path,
) -> None:
    """llama.cpp with base and adapter gives what PEFT gives, to float32's rounding."""
    base = request.getfixturevalue(f"sharp_{family}_dir")
    report = export_run(make_adapter(base, **KINDS[kind]), tmp_path, to="adapter-gguf", positions=8, threads=THREADS)
    [file] = report.files
    assert file.verdict.passed, file.verdict.failed
    assert file.verdict.quant == "f32" and file.verdict.max_abs_logprob_diff <= 1e-3
    assert [place.name for place in tmp_path.glob("*.gguf")] == ["adapter.f32.gguf"]  # the base is gone again


def test_adapter_gguf_of_an_embedding(
    tiny_llama_dir: Path, make_adapter: Callable[..., Path], needs_llamacpp: None, tmp_path: Path
) -> None:
    untied = shutil.copytree(tiny_llama_dir, tmp_path / "untied")
    weights = load_file(untied / "model.safetensors")
    weights["lm_head.weight"] = 0.05 * torch.randn(weights["model.embed_tokens.weight"].shape)
    save_file(weights, untied / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((untied / "config.json").read_text()) | {"tie_word_embeddings": False}
    (untied / "config.json").write_text(json.dumps(config))
    adapter = make_adapter(untied, target_modules=["embed_tokens", "lm_head", "q_proj"])
    # PEFT saves the untouched embedding beside its factors; a GGUF of an adapter has no place for it, and needs none
    file = adapter / "adapter_model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "lora_" in name}
    save_file(kept, file, metadata={"format": "pt"})
    report = export_run(adapter, tmp_path / "out", to="adapter-gguf", positions=8, threads=THREADS)
    assert report.files[0].verdict.max_abs_logprob_diff <= 1e-3


def test_a_wrong_adapter_gguf_fails(run_folder: Path, needs_llamacpp: None, tmp_path: Path) -> None:
    from whet.export.adapter import find_origin
    from whet.export.adapter_gguf import write_adapter_gguf

    source = find_origin(run_folder).adapter
    assert source is not None
    source.adapter["lora_alpha"] *= 2
    file = write_adapter_gguf(source, tmp_path / "wrong.gguf", name="m")
    verdict = Proof(run_folder, positions=8, threads=THREADS).of(file)
    assert not verdict.passed


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole"),
        ({"target_modules": ["embed_tokens"]}, "whole|embedding"),
    ],
)
def test_what_an_adapter_gguf_has_no_place_for(
    settings: dict[str, Any], word: str, sharp_llama_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=word):
        export_run(make_adapter(sharp_llama_dir, **settings), tmp_path / "out", to="adapter-gguf")
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"to": "ggml"}, "gguf"),
        ({"to": "merged", "quants": ["q8_0"]}, "--quant"),
        ({"to": "merged", "system": "x"}, "Modelfile"),
        ({"to": "adapter"}, "no adapter"),
        ({"to": "adapter-gguf"}, "no adapter"),
        ({"to": "merged", "dtype": "int4"}, "int4"),
    ],
)
def test_refusals(arguments: dict[str, Any], word: str, tiny_llama_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=word):
        export_run(tiny_llama_dir, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_the_model_is_never_written_over(tiny_llama_dir: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in tiny_llama_dir.iterdir()}
    with pytest.raises(ExportError, match="is the model"):
        export_run(tiny_llama_dir, tiny_llama_dir, to="merged")
    assert {file.name: file.stat().st_mtime_ns for file in tiny_llama_dir.iterdir()} == before


@pytest.mark.parametrize("tied", [True, False])
def test_resized_embeddings(tied: bool, tiny_llama_dir: Path, needs_llamacpp: None, tmp_path: Path) -> None:
    """Tokens were added in training: PEFT saves both matrices whole, and the export has their rows."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(0.05 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.save_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>", "<|other|>"]})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]))
    adapter = tmp_path / "adapter"
    tuned.save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    for form in ("gguf", "merged"):
        quants = ["f32"] if form == "gguf" else []
        report = export_run(adapter, tmp_path / form, quants, to=form, positions=8, threads=THREADS)
        report.check()
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (len(tokenizer), tied)
