"""From a run folder to proved files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from modelfile_reader import read_modelfile

from whet.errors import ExportError, ModelError, ProofFailed
from whet.export.adapter import resolve_source
from whet.export.gguf import write_gguf
from whet.export.run import ExportReport, ProvedFile, export_run
from whet.export.tensors import CheckpointSource
from whet.export.verify import verdict_path, verify_gguf
from whet.models.load import load_model
from whet.text.template import Turn, TurnTemplate

FRAME = TurnTemplate(user=Turn("Question: ", "\n"), assistant=Turn("SQL: ", "<|im_end|>"))


@pytest.fixture
def run_folder(tiny_llama_dir: Path, make_adapter: Callable[..., Path], tmp_path: Path) -> Path:
    """What ``whet train`` leaves, as far as an export reads it."""
    folder = tmp_path / "my-run"
    shutil.copytree(make_adapter(tiny_llama_dir), folder / "adapter")
    (folder / "config.yml").write_text("base_model: tiny\nsequence_len: 384\n")
    return folder


def test_a_run_is_exported_and_proved(run_folder: Path, needs_llamacpp: None, capsys: pytest.CaptureFixture) -> None:
    report = export_run(run_folder, quants=["f32", "q8_0"], system="You write SQL.", positions=16)
    assert report.exit_code == 0
    report.check()
    assert [file.path for file in report.files] == [run_folder / f"gguf/model.{q}.gguf" for q in ("f32", "q8_0")]
    for file in report.files:
        assert file.verdict is not None
        assert file.verdict.tokens_identical
        assert file.verdict.template_identical
        assert json.loads(verdict_path(file.path).read_text())["kl_mean"] == file.verdict.kl_mean
    assert report.files[0].verdict.max_abs_logprob_diff <= 1e-3  # the reference has the adapter on top, not merged
    commands = dict(read_modelfile((run_folder / "gguf/Modelfile").read_text()))
    assert commands["num_ctx"] == "384"
    assert commands["system"] == "You write SQL."
    report.print()
    assert "passed" in capsys.readouterr().out


def test_a_frame_saved_as_chat_template_is_what_is_exported(run_folder: Path, needs_llamacpp: None) -> None:
    (run_folder / "adapter/chat_template.jinja").write_text(FRAME.jinja())
    report = export_run(run_folder, positions=8)
    commands = dict(read_modelfile((run_folder / "gguf/Modelfile").read_text()))
    assert "Question: " in commands["template"]
    assert "<|im_start|>" not in commands["template"]
    assert report.files[0].verdict.template_identical
    with pytest.raises(ExportError, match="no place"):
        export_run(run_folder, system="You write SQL.", proof=False)


def test_no_template_is_said_and_none_is_written(
    run_folder: Path, needs_llamacpp: None, capsys: pytest.CaptureFixture
) -> None:
    (run_folder / "adapter/chat_template.jinja").unlink()
    report = export_run(run_folder, quants=["f16"], positions=8)
    assert "no chat template" in capsys.readouterr().err
    assert "TEMPLATE" not in (run_folder / "gguf/Modelfile").read_text()
    assert report.files[0].verdict.template_identical is None
    assert report.exit_code == 0


def test_a_template_without_an_ollama_form(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    shouting = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | upper }}<|im_end|>{% endfor %}"
    (run_folder / "adapter/chat_template.jinja").write_text(shouting)
    export_run(run_folder, quants=["f16"], proof=False)
    assert "no Ollama form" in capsys.readouterr().err
    written = (run_folder / "gguf/Modelfile").read_text()
    assert "template" not in dict(read_modelfile(written))
    assert "# No TEMPLATE: Ollama uses the chat template inside the GGUF.\n" in written
    assert dict(read_modelfile(written))["stop"] == "<|im_end|>"
    silent = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] | upper }}<|im_end|>{% endfor %}"
    (run_folder / "adapter/chat_template.jinja").write_text(silent)
    with pytest.raises(ExportError, match="no place"):
        export_run(run_folder, quants=["f16"], system="You write SQL.", proof=False)


def test_a_file_without_the_adapter_fails(run_folder: Path, tiny_llama_dir: Path, needs_llamacpp: None) -> None:
    file = write_gguf(CheckpointSource(tiny_llama_dir), tiny_llama_dir, run_folder / "m.gguf", "f16", name="m")
    model, tokenizer = load_model(str(run_folder), dtype=torch.float32)
    verdict = verify_gguf(file, model, tokenizer, positions=8)
    report = ExportReport([ProvedFile("f16", file, run_folder / "Modelfile", 1, verdict)])
    assert report.exit_code == 1
    with pytest.raises(ProofFailed, match=r"m\.gguf"):
        report.check()


def test_an_old_verdict_does_not_outlive_its_file(run_folder: Path, needs_llamacpp: None) -> None:
    [file] = export_run(run_folder, positions=4).files
    assert verdict_path(file.path).is_file()
    export_run(run_folder, proof=False)
    assert not verdict_path(file.path).exists()


def test_unproved_without_llamacpp(run_folder: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['xllamacpp'] = None\n"
        "from whet.export.run import export_run\n"
        "report = export_run(sys.argv[1], quants=['f16'])\n"
        "print(report.unproved)\n"
        "raise SystemExit(report.exit_code)\n"
    )
    command = [sys.executable, "-c", code, str(run_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "pip install 'whet[serve]'" in done.stdout
    assert (run_folder / "gguf/model.f16.gguf").is_file()


def test_full_fine_tune_and_checkpoint_and_adapter(tiny_qwen2_dir: Path, run_folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "full"
    shutil.copytree(tiny_qwen2_dir, whole / "model")
    (whole / "config.yml").write_text("base_model: tiny\n")
    for path, tokenizer in (
        (whole, whole / "model"),
        (whole / "model", whole / "model"),
        (run_folder, run_folder / "adapter"),
        (run_folder / "adapter", run_folder / "adapter"),
    ):
        source, tokenizer_dir = resolve_source(path)
        assert tokenizer_dir == tokenizer
        assert "model.norm.weight" in source.names()


def test_a_quantised_base_is_refused(run_folder: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_llama_dir, tmp_path / "base-4bit")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    file = run_folder / "adapter/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(base)}))
    with pytest.raises(ExportError, match="16-bit"):
        export_run(run_folder)
    assert not (run_folder / "gguf").exists()


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no model"):
        export_run(tmp_path)


def test_a_base_that_cannot_be_had(run_folder: Path) -> None:
    """No network: the message names the base, and nothing is written."""
    file = run_folder / "adapter/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "nobody/no-such-base"}))
    code = (
        "import sys\n"
        "from whet.errors import ExportError\n"
        "from whet.export.adapter import resolve_source\n"
        "try: resolve_source(sys.argv[1])\n"
        "except ExportError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(run_folder)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert "'nobody/no-such-base'" in done.stdout, done.stderr


def test_the_runs_own_rows_make_an_importance_matrix(run_folder: Path) -> None:
    from whet.export.importance import read_importance

    rows = [{"messages": [{"role": "user", "content": f"{i} orders?"}, {"role": "assistant", "content": "Yes."}]}
            for i in range(30)]  # fmt: skip
    (run_folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entry = f"datasets:\n  - path: {run_folder / 'rows.jsonl'}\n    type: chat_template\n"
    (run_folder / "config.yml").write_text(f"base_model: tiny\nsequence_len: 384\nadapter: lora\n{entry}")
    export_run(run_folder, quants=["q4_0"], imatrix="run", proof=False)
    made = read_importance(run_folder / "gguf/model.imatrix.gguf")
    assert made.dataset == "the run's training rows"
    assert made.chunks == 30
    assert len(made.columns) == 14
