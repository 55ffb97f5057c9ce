"""The notebook API on real small runs: the names, defaults and promises that readers of the tutorials rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from whet import FastLanguageModel, SFTConfig, SFTTrainer, is_bfloat16_supported, runtime
from whet.errors import DataError, ExportError, ModelError, WhetError
from whet.export.live import LiveSource
from whet.export.lora import AdapterSource
from whet.export.tensors import CheckpointSource
from whet.models.names import starter_folder
from whet.models.parts import exact_on_cpu

FRAME = "Answer the question.\n\n### Question:\n{}\n\n### Answer:\n{}"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _texts(count: int, end: str) -> list[dict[str, str]]:
    from whet.sample import train_rows

    return [{"text": FRAME.format(row.question, row.sql) + end} for row in train_rows()[:count]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A LoRA on the starter, three steps on rows formatted by hand."""
    folder = tmp_path_factory.mktemp("notebook")
    model, tokenizer = FastLanguageModel.from_pretrained("starter", max_seq_length=512)
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=64, use_gradient_checkpointing="unsloth")
    args = SFTConfig(
        output_dir=str(folder / "out"), max_steps=3, learning_rate=1e-2, logging_steps=1, save_strategy="no",
        report_to="none", per_device_train_batch_size=2,
    )  # fmt: skip
    trainer = SFTTrainer(model, tokenizer, args=args, train_dataset=_texts(24, tokenizer.eos_token))
    output = trainer.train()
    assert output.training_loss > 0
    assert output.metrics["train_runtime"] > 0
    assert trainer.template_kind == "frame"
    return model, tokenizer, folder


def test_the_adapter_learns_from_the_rows(trained: tuple[Any, Any, Path]) -> None:
    model, _, _ = trained
    moved = [p.abs().max().item() for n, p in model.named_parameters() if "lora_B" in n]
    assert len(moved) == 35
    assert min(moved) > 0  # B starts at zero: every layer got a gradient


def test_modelfile_is_the_frame_of_the_rows_and_survives_saving(trained: tuple[Any, Any, Path]) -> None:
    model, tokenizer, folder = trained
    assert "### Question:" in tokenizer._ollama_modelfile
    assert "im_start" not in tokenizer._ollama_modelfile
    model.save_pretrained(folder / "lora")
    tokenizer.save_pretrained(folder / "lora")
    again, tokenizer_again = FastLanguageModel.from_pretrained(str(folder / "lora"), max_seq_length=512)
    assert tokenizer_again._ollama_modelfile == tokenizer._ollama_modelfile
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)


def test_saved_adapter_loads_with_plain_peft(trained: tuple[Any, Any, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, _, folder = trained
    model.save_pretrained(folder / "plain")
    base = AutoModelForCausalLM.from_pretrained(starter_folder(), dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, folder / "plain").eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad(), exact_on_cpu(model):
        assert torch.allclose(loaded(ids).logits, model.eval()(ids).logits, atol=1e-5)


def test_weights_in_memory_are_those_of_the_saved_adapter(trained: tuple[Any, Any, Path]) -> None:
    model, _, folder = trained
    model.save_pretrained(folder / "again")
    (folder / "live").mkdir(exist_ok=True)
    live = LiveSource(model, folder / "live")
    saved = AdapterSource(CheckpointSource(starter_folder()), folder / "again")
    assert live.names() == saved.names()
    for name in live.names():
        assert live.shape(name) == saved.shape(name)
        assert torch.allclose(live.get(name), saved.get(name), atol=1e-6), name


def test_gguf_files_and_modelfiles(trained: tuple[Any, Any, Path]) -> None:
    pytest.importorskip("xllamacpp")
    model, tokenizer, folder = trained
    model.save_pretrained_gguf(folder / "gguf", tokenizer, quantization_method=["q8_0", "q4_k_m"])
    names = {path.name for path in (folder / "gguf").iterdir()}
    assert {"model.q8_0.gguf", "model.q4_k_m.gguf", "Modelfile", "Modelfile.q8_0", "Modelfile.q4_k_m"} <= names
    assert (folder / "gguf" / "Modelfile").read_text() == (folder / "gguf" / "Modelfile.q8_0").read_text()
    assert "### Answer:" in (folder / "gguf" / "Modelfile").read_text()
    verdict = json.loads((folder / "gguf" / "model.q8_0.gguf.verify.json").read_text())
    assert verdict["passed"]
    assert verdict["tokens_identical"]
    assert tokenizer._ollama_modelfile == (folder / "gguf" / "Modelfile").read_text()


def test_merged_model_is_the_adapted_one(trained: tuple[Any, Any, Path]) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer, folder = trained
    model.save_pretrained_merged(folder / "merged", tokenizer)
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        difference = (merged(ids).logits - model.eval()(ids).logits).abs().max()
    assert difference < 0.5  # bfloat16 rounding of the merged weights
    with torch.no_grad(), model.disable_adapter():
        assert (merged(ids).logits - model(ids).logits).abs().max() > 2 * difference


def test_rows_without_a_common_frame_export_no_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = FastLanguageModel.from_pretrained("starter")
    assert "im_start" in tokenizer._ollama_modelfile
    rows = [{"text": "".join(chr(97 + (i * j) % 26) for j in range(20 + i))} for i in range(1, 12)]
    SFTTrainer(model, tokenizer, args=SFTConfig(output_dir=str(tmp_path), report_to="none"), train_dataset=rows)
    assert tokenizer.chat_template is None
    assert tokenizer._ollama_modelfile is None
    assert "warning: chat template: none" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU cannot")
def test_what_a_cpu_cannot_is_replaced_and_said_once(tmp_path: Path) -> None:
    code = f"""
from whet import FastLanguageModel, SFTConfig, SFTTrainer
from transformers import TrainingArguments
model, tokenizer = FastLanguageModel.from_pretrained("starter", load_in_4bit=True)
FastLanguageModel.from_pretrained("starter", load_in_4bit=True)
SFTConfig(output_dir={str(tmp_path)!r}, bf16=True, optim="adamw_8bit")
args = TrainingArguments(output_dir={str(tmp_path)!r}, fp16=True, optim="adamw_8bit", report_to="none", max_steps=1,
                         save_strategy="no")
trainer = SFTTrainer(FastLanguageModel.get_peft_model(model), tokenizer, args=args,
                     train_dataset=[{{"text": "one two"}}, {{"text": "three four"}}])
trainer.train()
print(trainer.args.fp16, args.fp16, trainer.args.optim)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True", "OptimizerNames.ADAMW_TORCH"]
    fast = runtime.cpu_bf16_gain() >= runtime.BF16_GAIN
    number_format = "weights are held in bfloat16" if fast else "bf16 is slow"
    for said in ("4-bit weights need an NVIDIA GPU", "adamw_8bit needs an NVIDIA GPU", number_format, "fp16 is slow"):
        assert done.stderr.count(said) == 1, said
    assert not is_bfloat16_supported()


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: FastLanguageModel.from_pretrained("starter", max_seq_lenght=8), "max_seq_length"),
        (lambda: FastLanguageModel.get_peft_model(None, lora_alfa=8), "lora_alpha"),
        (lambda: SFTConfig(learning_rat=1e-4), "learning_rate"),
        (lambda: SFTTrainer(None, None, train_datasets=[]), "train_dataset"),
    ],
)
def test_an_unknown_argument_is_an_error_with_the_nearest(call: Any, near: str) -> None:
    with pytest.raises(WhetError, match=f"did you mean {near}"):
        call()


def test_bad_input(tmp_path: Path) -> None:
    model, tokenizer = FastLanguageModel.from_pretrained("starter")
    args = SFTConfig(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(DataError, match="no train_dataset"):
        SFTTrainer(model, tokenizer, args=args)
    with pytest.raises(DataError, match="empty"):
        SFTTrainer(model, tokenizer, args=args, train_dataset=[])
    with pytest.raises(WhetError, match="no tokenizer"):
        SFTTrainer(model, args=args, train_dataset=[{"text": "a b"}])
    with pytest.raises(ModelError, match="adapter already"):
        adapted = FastLanguageModel.get_peft_model(model)
        FastLanguageModel.get_peft_model(adapted)
    with pytest.raises(WhetError, match="merged_16bit"):
        adapted.save_pretrained_merged(tmp_path / "m", tokenizer, save_method="merged_4bit")
    with pytest.raises(WhetError):
        adapted.save_pretrained_gguf(tmp_path / "g", tokenizer, quantization_method="q9_9")
    assert not (tmp_path / "g").exists()


def test_dora_is_refused_by_name(tmp_path: Path) -> None:
    model, _ = FastLanguageModel.from_pretrained("starter")
    model = FastLanguageModel.get_peft_model(model, r=4, use_dora=True)
    with pytest.raises(ExportError, match="other than plain LoRA"):
        LiveSource(model, tmp_path)


def test_a_longer_context_than_the_model_can_is_clamped(capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = FastLanguageModel.from_pretrained("starter", max_seq_length=8192)
    assert model.max_seq_length == 2048


def test_qwen2_goes_to_gguf(tiny_qwen2_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    model, tokenizer = FastLanguageModel.from_pretrained(str(tiny_qwen2_dir), max_seq_length=256)
    model = FastLanguageModel.get_peft_model(model, r=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    written = model.save_pretrained_gguf(tmp_path / "q", tokenizer, quantization_method="f16")
    assert written[0].gguf.stat().st_size > 1_000_000
    assert json.loads((tmp_path / "q" / "model.f16.gguf.verify.json").read_text())["passed"]


def test_formatting_functions_of_both_kinds(tmp_path: Path) -> None:
    from whet.train.sft_rows import read_rows

    rows = [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}]
    single = read_rows(rows, "text", lambda row: f"{row['q']}={row['a']}").records
    texts = lambda rows: [f"{q}={a}" for q, a in zip(rows["q"], rows["a"], strict=True)]  # noqa: E731
    batch = read_rows(rows, "text", texts).records
    assert [r.text for r in single] == [r.text for r in batch] == ["one=1", "two=2"]
