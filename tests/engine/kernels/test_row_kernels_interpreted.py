"""Triton's row kernels (norm, RoPE, GLU, copies) through Triton's interpreter, in a process of its own.

TRITON_INTERPRET is read when Triton is imported, so it must not be set in this process.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_row_kernels_in_the_interpreter() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    child = Path(__file__).with_name("interpreted_row_kernels.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(child)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "9 passed" in done.stdout
