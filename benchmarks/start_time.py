"""How long ``whet --help`` and ``import whet`` take, each in a new process (median of 15)."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from record import record, spread

REPEATS = 15


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    whet = str(Path(sys.executable).with_name("whet"))
    commands = {
        "whet_help_seconds": [whet, "--help"],
        "import_whet_seconds": [sys.executable, "-c", "import whet"],
        "bare_python_seconds": [sys.executable, "-c", "pass"],
    }
    for command in commands.values():
        seconds(command)  # files into the page cache
    record("start_time", **{name: spread([seconds(c) for _ in range(REPEATS)]) for name, c in commands.items()})


if __name__ == "__main__":
    main()
