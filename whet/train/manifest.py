"""What a run was made of: enough to make it again, or to see why another differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whet import runtime
from whet.console import write_json_atomic
from whet.data.loader import Prepared
from whet.data.prepared import data_hash


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
