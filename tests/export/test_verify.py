"""The proof passes a right file and fails a wrong one, each wrong in one way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import THREADS

from whet.export.gguf import write_gguf
from whet.export.lora import AdapterSource
from whet.export.tensors import CheckpointSource, TensorSource
from whet.export.verify import Verdict, judge, verdict_path, verify_gguf


class Spoiled:
    """A source that changes one kind of weight."""

    def __init__(self, source: TensorSource, part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.source, self.part, self.change = source, part, change
        self.config, self.folder = source.config, source.folder

    def names(self) -> list[str]:
        return self.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def get(self, name: str) -> torch.Tensor:
        weight = self.source.get(name)
        return self.change(weight) if self.part in name else weight


@pytest.fixture
def check(
    sharp_llama_dir: Path, load_float32: Callable[..., Any], needs_llamacpp: None, tmp_path: Path
) -> Callable[..., Verdict]:
    """check(source, quant, adapter=None, **write_gguf arguments): the verdict on that file against the right model."""

    def run(source: TensorSource, quant: str, adapter: Path | None = None, **settings: Any) -> Verdict:
        from transformers import AutoTokenizer

        file = write_gguf(source, sharp_llama_dir, tmp_path / f"{quant}.gguf", quant, name="m", **settings)
        model = load_float32(sharp_llama_dir, adapter)
        tokenizer = AutoTokenizer.from_pretrained(sharp_llama_dir)
        return verify_gguf(file, model, tokenizer, positions=12, threads=THREADS)

    return run


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0"])
def test_the_right_file_passes(quant: str, check: Callable[..., Verdict], sharp_llama_dir: Path) -> None:
    verdict = check(CheckpointSource(sharp_llama_dir), quant)
    assert verdict.passed
    assert (verdict.tokens_identical, verdict.template_identical, verdict.eos_identical) == (True, True, True)
    assert verdict.positions == 12


def _unpaired(weight: torch.Tensor) -> torch.Tensor:
    """What the writer's permutation turns back into the rows as they were: a file without the permutation."""
    return weight.reshape(8, 16, 2, -1).transpose(1, 2).reshape(weight.shape)


@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0"])
def test_a_missing_permutation_fails(quant: str, check: Callable[..., Verdict], sharp_llama_dir: Path) -> None:
    verdict = check(Spoiled(CheckpointSource(sharp_llama_dir), "q_proj", _unpaired), quant)
    assert not verdict.passed
    assert verdict.tokens_identical


def test_a_wrong_merge_fails(
    check: Callable[..., Verdict], sharp_llama_dir: Path, make_adapter: Callable[..., Path]
) -> None:
    adapter = make_adapter(sharp_llama_dir, lora_alpha=2)
    base = CheckpointSource(sharp_llama_dir)
    assert check(AdapterSource(base, adapter), "f16", adapter).passed
    wrong = AdapterSource(base, adapter)
    wrong.adapter["lora_alpha"] = 4
    assert not check(wrong, "f16", adapter).passed
    assert not check(base, "f16", adapter).passed  # the adapter forgotten


def test_a_wrong_template_fails(check: Callable[..., Verdict], sharp_llama_dir: Path) -> None:
    other = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"
    verdict = check(CheckpointSource(sharp_llama_dir), "f32", chat_template=other)
    assert verdict.template_identical is False
    assert not verdict.passed
    assert verdict.kl_mean < 1e-6  # only the template is wrong


def test_no_template_at_all_is_no_failure(
    sharp_llama_dir: Path, load_float32: Callable[..., Any], needs_llamacpp: None, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sharp_llama_dir)
    tokenizer.chat_template = None
    source = CheckpointSource(sharp_llama_dir)
    file = write_gguf(source, sharp_llama_dir, tmp_path / "m.gguf", "f32", name="m", chat_template="")
    verdict = verify_gguf(file, load_float32(sharp_llama_dir), tokenizer, positions=8, threads=THREADS)
    assert verdict.template_identical is None
    assert verdict.passed


def test_a_wrong_end_token_fails(
    sharp_llama_dir: Path, load_float32: Callable[..., Any], needs_llamacpp: None, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sharp_llama_dir)
    right = tokenizer.eos_token
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path)
    file = write_gguf(CheckpointSource(sharp_llama_dir), tmp_path, tmp_path / "m.gguf", "f32", name="m")
    tokenizer.eos_token = right
    verdict = verify_gguf(file, load_float32(sharp_llama_dir), tokenizer, positions=4, threads=THREADS)
    assert not verdict.eos_identical
    assert not verdict.passed


def test_the_verdict_stands_beside_the_file(
    check: Callable[..., Verdict], sharp_llama_dir: Path, tmp_path: Path
) -> None:
    verdict = check(CheckpointSource(sharp_llama_dir), "q8_0")
    written = json.loads(verdict_path(tmp_path / "q8_0.gguf").read_text())
    assert written["file"] == "q8_0.gguf"
    assert written["kl_mean"] == verdict.kl_mean
    assert written["passed"] is True
    assert written["thresholds"]["kl_mean"] == 0.01
    assert set(written["versions"]) == {"whet", "xllamacpp", "transformers", "torch"}


def test_figures_of_known_distributions() -> None:
    """KL of (1/2, 1/4, 1/4) from (1/4, 1/2, 1/4): a half of ln 2 less a quarter of it."""
    trained = np.log([[0.5, 0.25, 0.25]] * 3)
    found = np.log([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    verdict = judge("q8_0", trained, found, probes=1)
    assert verdict.kl_mean == pytest.approx(0.25 * np.log(2) / 3)
    assert verdict.top1_agreement == pytest.approx(2 / 3)
    assert verdict.max_abs_logprob_diff == pytest.approx(np.log(2))
    assert not verdict.passed


def test_a_near_tie_counts_as_one_choice() -> None:
    trained = np.log([[0.400, 0.395, 0.205]])
    found = np.log([[0.395, 0.400, 0.205]])
    assert judge("q8_0", trained, found, probes=1).top1_agreement == 1.0


def test_unproved_without_llamacpp(sharp_llama_dir: Path, tmp_path: Path) -> None:
    """llama.cpp is truly not importable in this process."""
    file = write_gguf(CheckpointSource(sharp_llama_dir), sharp_llama_dir, tmp_path / "m.gguf", "f16", name="m")
    code = (
        "import sys\n"
        "sys.modules['xllamacpp'] = None\n"  # Python's own way to say: this import fails
        "from whet.errors import Unproved\n"
        "from whet.export.verify import verify_gguf\n"
        "try:\n"
        f"    verify_gguf({str(file)!r}, None, None)\n"
        "except Unproved as error:\n"
        "    print(error)\n"
        "    raise SystemExit(error.exit_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "unproved" in done.stdout
    assert "pip install 'whet[serve]'" in done.stdout
