"""Which checkpoint can a run go on from? A killed run may have left a half-written one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from whet.console import notice

PREFIX = "checkpoint-"
STATE = "trainer_state.json"  # transformers writes it last
NEEDED = ("optimizer.pt", "scheduler.pt")


def newest_complete(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step in ``folder``; None without one."""
    for candidate in reversed(_checkpoints(folder)):
        if is_complete(candidate):
            return candidate
        notice(f"{candidate} is incomplete and is passed over")
    return None


def is_complete(checkpoint: Path) -> bool:
    """Whether every part is there and readable."""
    try:
        json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = list(checkpoint.glob("*.safetensors"))
    return bool(weights) and all(map(_opens, weights)) and all((checkpoint / name).is_file() for name in NEEDED)


def remove_incomplete(folder: Path) -> None:
    """Delete what a failed write left behind."""
    for candidate in _checkpoints(folder):
        if not is_complete(candidate):
            shutil.rmtree(candidate, ignore_errors=True)


def set_aside(folder: Path) -> None:
    """Rename the checkpoints of an earlier run, so that none of them passes for one of the run that starts now."""
    if not _checkpoints(folder):
        return
    aside = folder.with_name(f"{folder.name}-before")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    notice(f"the checkpoints of the run before are in {aside} now; --resume would have gone on from them")


def _checkpoints(folder: Path) -> list[Path]:
    """By step, oldest first."""
    found = [p for p in folder.glob(f"{PREFIX}*") if p.is_dir() and p.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(PREFIX)))


def _opens(path: Path) -> bool:
    """A truncated safetensors file does not open: its header says how long it must be."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
