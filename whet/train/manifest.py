"""What a run was made of: enough to make it again, or to see why another differs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from whet import runtime
from whet.console import write_json_atomic
from whet.data.loader import Prepared


def data_hash(prepared: Prepared) -> str:
    """SHA-256 of the tokens, of which are trained, and of the rows in order."""
    digest = hashlib.sha256()
    for part in (prepared.ids, prepared.mask, prepared.offsets, prepared.order):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def write_manifest(path: Path, prepared: Prepared, **facts: Any) -> None:
    """Versions, device, data and the facts given, as JSON."""
    stats = prepared.stats
    data = {
        "sha256": data_hash(prepared),
        "rows": stats.rows,
        "tokens": stats.tokens,
        "trained_tokens": stats.trained_tokens,
        "truncated": stats.truncated,
        "dropped": stats.dropped,
    }
    write_json_atomic(path, {"versions": runtime.versions(), "device": runtime.device_facts(), "data": data, **facts})
