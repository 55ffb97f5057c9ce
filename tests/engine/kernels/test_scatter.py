"""Many copies at once: the plain form, Triton's kernel through its interpreter, and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scatter_cases import copies, problems

from whet.engine.kernels.scatter import Scatter

BOUNDS = {torch.float64: 1e-7, torch.float32: 1e-6, torch.bfloat16: 2**-8}  # factors are applied to float32 sources


@pytest.mark.parametrize("target", BOUNDS, ids=str)
def test_copies(target):
    done, buffers = copies(target, "cpu")
    scatter = Scatter(done)
    scatter.run()
    assert problems(done, buffers, BOUNDS[target]) == []
    for _, source, _ in done:
        source.mul_(-2)
    scatter.run()
    assert problems(done, buffers, BOUNDS[target]) == []
    Scatter([]).run()


def test_scatter_in_the_interpreter():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    child = Path(__file__).with_name("interpreted_scatter.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(child)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.gpu
@pytest.mark.parametrize("target", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_copies_on_a_gpu(target):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    done, buffers = copies(target, "cuda")
    parameters = [torch.nn.Parameter(source.clone()) for _, source, _ in done]
    done = [(to, parameter, factor) for (to, _, factor), parameter in zip(done, parameters, strict=True)]
    scatter = Scatter(done)
    scatter.run()
    assert problems(done, buffers, BOUNDS[target]) == []
    for parameter in parameters:
        parameter.data = parameter.data * -2
    scatter.run()
    assert problems(done, buffers, BOUNDS[target]) == []
