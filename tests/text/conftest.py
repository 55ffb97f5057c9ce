from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def go_program(tmp_path_factory):
    """The Go program that renders templates as Ollama does; tests that need it skip where Go is not installed."""
    if not shutil.which("go"):
        pytest.skip("go is not installed")
    program = tmp_path_factory.mktemp("go") / "render"
    source = Path(__file__).parent / "go" / "render.go"
    subprocess.run(["go", "build", "-o", program, source], check=True, timeout=240, capture_output=True)
    return program
