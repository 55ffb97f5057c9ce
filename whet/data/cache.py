"""Prepared rows kept on disk under the hash of all that made them.

The key holds the content of the source files, how they are read, the tokenizer, the chat template and the lengths. So a
changed file is prepared anew, and an old entry is never used for it. An entry is written beside and renamed; a stopped
run leaves none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LAYOUT = 1  # raised when what is written, or how rows become tokens, changes
KEPT = 8  # entries of the user's cache; the oldest go


def user_cache() -> Path:
    """The folder where this user's programs keep what can be made again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "whet" / "prepared"


def entry_key(**facts: Any) -> str:
    """The name of the entry that these facts make (32 hexadecimal digits)."""
    text = json.dumps({"layout": LAYOUT, **facts}, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash of everything in a tokenizer that decides about ids and masks."""
    parts = [tokenizer.backend_tokenizer.to_str(), str(tokenizer.chat_template), str(tokenizer.special_tokens_map)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def prune(root: Path, keep: Path) -> None:
    """Remove the oldest entries of ``root`` beyond ``KEPT``; ``keep`` stays. Other files are not touched."""
    entries = sorted(_entries(root), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in entries[KEPT:]:
        if entry != keep:
            shutil.rmtree(entry, ignore_errors=True)


def _entries(root: Path) -> Iterable[Path]:
    return (item for item in root.iterdir() if item.is_dir() and (item / "stats.json").is_file())
