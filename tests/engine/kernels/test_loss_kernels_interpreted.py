"""The NF4 and cross-entropy kernels in Triton's interpreter, in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("loss_kernel_cases.py")


def test_the_kernels_agree_with_their_plain_twins() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if version("triton") < "3.7" and version("numpy") >= "2.4":
        pytest.skip("the interpreter of this Triton cannot run loops with this numpy")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(CASES)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "every case agrees" in done.stdout
