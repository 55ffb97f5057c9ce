"""The kernels of a decode step: in Triton's interpreter in a process of its own, and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from whet.engine.kernels.gemv import Weight, project


@pytest.mark.parametrize("cases", ["gemv_cases", "decode_attention_cases"])
def test_in_the_interpreter(cases: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if version("triton") < "3.7" and version("numpy") >= "2.4":
        pytest.skip("the interpreter of this Triton cannot run loops with this numpy")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name(f"{cases}.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "every case agrees" in done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("cases", ["gemv_cases", "decode_attention_cases"])
def test_on_a_gpu(cases: str) -> None:
    importlib.import_module(cases).check_all("cuda")


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="outputs"):
        project(torch.zeros(2, 8), [Weight(torch.zeros(3, 8))], torch.zeros(2, 4))
    with pytest.raises(ValueError, match="side by side"):
        project(torch.zeros(8, 2).t(), [Weight(torch.zeros(3, 8))], torch.zeros(2, 3))


@pytest.mark.parametrize("rows", [4, 8, 64])
@pytest.mark.parametrize("shape", [(1536, 512), (4096, 512), (512, 768), (97, 24)])
def test_rows_of_a_product_do_not_depend_on_the_others(rows: int, shape: tuple[int, int]) -> None:
    """What batches rely on (CPU_ROWS): should it fail on some machine, batches there may differ in the last bits."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, shape[1], generator=generator) for n in (64, shape[0]))
    whole, few = torch.empty(64, shape[0]), torch.empty(rows, shape[0])
    project(x, [Weight(w)], whole)
    order = torch.randperm(64, generator=generator)[:rows]
    project(x[order], [Weight(w)], few)
    assert torch.equal(few, whole[order])
