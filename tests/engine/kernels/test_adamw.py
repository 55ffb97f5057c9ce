"""AdamW over masters in two halves: the plain form, the kernel in Triton's interpreter, and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adamw_cases import KINDS, Buffers, beside_the_twin, check_all, gradients, problems, settings

from whet.engine.kernels.adamw import adamw_


@pytest.mark.parametrize("kind", KINDS[::3], ids=str)
def test_the_plain_form_is_adamw(kind: tuple[torch.dtype, torch.dtype, bool, int]) -> None:
    assert problems(adamw_, *kind, "cpu") == []


def test_it_is_torchs() -> None:
    """Of float32 weights, against torch's own in float64."""
    mine = Buffers(777, torch.float32, "cpu")
    other = torch.nn.Parameter(mine.weights.double())
    optimizer = torch.optim.AdamW([other], lr=1.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step, one in enumerate(gradients(777, torch.float32, "cpu"), start=1):
        adamw_(mine.weights, None, one, mine.mean, mine.square, settings(step))
        optimizer.param_groups[0]["lr"] = settings(step).lr
        other.grad = one.double()
        optimizer.step()
    torch.testing.assert_close(mine.weights.double(), other.detach(), rtol=2**-21, atol=1e-9)


def test_tensors_that_do_not_belong_together_are_refused() -> None:
    one = Buffers(8, torch.bfloat16, "cpu")
    gradient = torch.zeros(8)
    with pytest.raises(ValueError, match="one length"):
        adamw_(one.weights, one.low, gradient[:7], one.mean, one.square, settings(1))
    with pytest.raises(ValueError, match="without gaps"):
        adamw_(one.weights, one.low, torch.zeros(16)[::2], one.mean, one.square, settings(1))
    with pytest.raises(ValueError, match="int16"):
        adamw_(one.weights, None, gradient, one.mean, one.square, settings(1))
    with pytest.raises(ValueError, match="float32"):
        adamw_(one.weights, one.low, gradient, one.mean.bfloat16(), one.square, settings(1))


def test_in_the_interpreter() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    child = Path(__file__).with_name("adamw_cases.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(child)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    check_all(adamw_, "cuda")
    assert beside_the_twin(adamw_, "cuda") < 0.3  # a product and a sum are rounded once there
