"""The embedded model through every quantisation."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import THREADS

import whet
from whet.export.run import ExportReport, export_run

# Measured (2 cores, xllamacpp 2026.10.11549, 64 positions): mean KL 2e-12, 9e-7, 5e-5, 9e-4, 6e-3, 5e-2 in this order.
QUANTS = ["f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m"]


@pytest.fixture(scope="module")
def report(needs_llamacpp: None, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    if not (whet.starter_path() / "config.json").is_file():
        pytest.skip("the starter is not in this checkout")
    out: Path = tmp_path_factory.mktemp("starter") / "gguf"
    return export_run("starter", out, QUANTS, positions=12, threads=THREADS)


def test_every_quantisation_is_proved(report: ExportReport) -> None:
    assert [file.quant for file in report.files] == QUANTS
    assert [file.verdict for file in report.files if not file.verdict.passed] == []
    assert all(file.verdict.tokens_identical and file.verdict.template_identical for file in report.files)


def test_float32_is_exact(report: ExportReport) -> None:
    assert report.files[0].verdict.max_abs_logprob_diff <= 1e-3


def test_fewer_bits_are_further_off(report: ExportReport) -> None:
    mean = {file.quant: file.verdict.kl_mean for file in report.files}
    assert mean["f32"] < mean["f16"] < mean["q8_0"] < mean["q6_k"] < mean["q4_k_m"]
    assert mean["q8_0"] <= 0.01


def test_fewer_bits_are_smaller(report: ExportReport) -> None:
    size = {file.quant: file.bytes for file in report.files}
    assert size["f32"] > size["f16"] == size["bf16"] > size["q8_0"] > size["q6_k"] > size["q4_k_m"]
