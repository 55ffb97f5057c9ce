"""How every benchmark writes its result: versions, device, medians and spread, in benchmarks/results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from whet import runtime
from whet.console import write_json_atomic

RESULTS = Path(__file__).resolve().parent / "results"


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median, smallest and largest of the repeats, and the repeats themselves."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "repeats": [round(value, digits) for value in values],
    }


def facts() -> dict[str, Any]:
    """The day, the versions and the device."""
    return {"date": date.today().isoformat(), "versions": runtime.versions(), "device": runtime.device_facts()}


def record(name: str, folder: Path = RESULTS, **figures: Any) -> Path:
    """Write ``results/<name>.json``."""
    path = folder / f"{name}.json"
    write_json_atomic(path, facts() | figures)
    print(path)
    return path
