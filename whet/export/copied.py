"""The adapter as PEFT reads it, handed on as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from whet.console import staged_folder
from whet.errors import ExportError, ProofFailed
from whet.export.lora import read_adapter_config
from whet.export.merged import copy_tokenizer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_CHUNK = 1 << 24


def copy_adapter(adapter: Path, tokenizer: Path, out_dir: Path) -> Path:
    """Copy an adapter with the tokenizer that it was trained with.

    Raises:
        ExportError: the adapter is not LoRA, or has no weights.
        OutputError: the disk is full or the place not writable.
    """
    read_adapter_config(adapter)
    if not (adapter / WEIGHTS).is_file():
        raise ExportError(f"no {WEIGHTS} in {adapter}", "the folder of a LoRA adapter")
    with staged_folder(out_dir) as stage:
        for name in (WEIGHTS, CONFIG):
            shutil.copyfile(adapter / name, stage / name)
        copy_tokenizer(tokenizer, stage)
    return out_dir / WEIGHTS


def check_copy(adapter: Path, out_dir: Path) -> None:
    """Read both back and compare every byte.

    Raises:
        ProofFailed: the copy differs.
    """
    for name in (WEIGHTS, CONFIG):
        if not _equal(adapter / name, out_dir / name):
            raise ProofFailed(f"{out_dir / name} differs from {adapter / name}", fix="check the disk; export again")


def _equal(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            a, b = first.read(_CHUNK), second.read(_CHUNK)
            if a != b:
                return False
            if not a:
                return True
