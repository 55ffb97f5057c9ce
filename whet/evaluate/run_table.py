"""``whet runs``: what is different between runs, and what became of each. Only files are read; no model is loaded."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from whet.config.sizes import format_size
from whet.console import PLAIN_TABLE_WIDTH, format_figure, format_seconds, table
from whet.errors import DataError

DEPTH = 2  # folders below the one that is named
SKIPPED = {"output_dir", "dataset_prepared_path"}  # keys that differ without a difference
LONGEST = 40  # characters of a config value in the table
MOST_KEYS = 8  # config differences that are shown
GAP = 3  # columns between two cells


@dataclass(frozen=True)
class Run:
    """One run, as its files tell.

    Attributes:
        config: keys and values as trained; lists and mappings are flattened, ``datasets.0.path``.
        state: "done", "stopped" (Ctrl-C), or "unfinished": no manifest, so it runs or was killed.
        steps: optimizer steps.
        loss, eval_loss: mean training loss and last validation loss, nats per trained token; None where unknown.
        metrics: of the last comparison and evaluations: name -> (value, shown text).
        tokens_per_second, seconds: of training.
        peak_bytes: of a GPU, else what was planned; ``planned`` says which.
        when: of the last change, seconds since 1970.
    """

    folder: Path
    config: dict[str, Any]
    state: str
    steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    metrics: dict[str, tuple[float, str]] = field(default_factory=dict)
    tokens_per_second: float | None = None
    seconds: float | None = None
    peak_bytes: float | None = None
    planned: bool = False
    when: float = 0.0


@dataclass(frozen=True)
class RunTable:
    """Runs in order of time."""

    runs: list[Run]

    def differences(self) -> dict[str, list[Any]]:
        """Config keys whose values differ, with the value of each run (None where it is not set)."""
        keys = dict.fromkeys(key for run in self.runs for key in run.config)
        values = {key: [run.config.get(key) for run in self.runs] for key in keys if key not in SKIPPED}
        return {key: found for key, found in values.items() if any(value != found[0] for value in found)}

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Heads and cells; columns that no run has a value of are left out."""
        differ = dict(list(self.differences().items())[:MOST_KEYS])
        columns: dict[str, list[str]] = {"run": _names(self.runs)}
        columns |= {
            key.removesuffix(".0.path"): [_config_text(value) for value in found] for key, found in differ.items()
        }
        columns["state"] = [run.state for run in self.runs]
        columns["steps"] = [_figure(run.steps) for run in self.runs]
        columns["loss"] = [_figure(run.loss) for run in self.runs]
        columns["held-out loss"] = [_figure(run.eval_loss) for run in self.runs]
        for name in dict.fromkeys(name for run in self.runs for name in run.metrics):
            columns[name] = [run.metrics[name][1] if name in run.metrics else "" for run in self.runs]
        columns["tokens/s"] = [
            _figure(round(run.tokens_per_second)) if run.tokens_per_second else "" for run in self.runs
        ]
        columns["time"] = [format_seconds(run.seconds) if run.seconds is not None else "" for run in self.runs]
        columns["memory"] = [
            format_size(run.peak_bytes) + (" (planned)" if run.planned else "") if run.peak_bytes else ""
            for run in self.runs
        ]
        columns["when"] = [time.strftime("%Y-%m-%d %H:%M", time.localtime(run.when)) for run in self.runs]
        kept = {head: cells for head, cells in columns.items() if any(cells)}
        return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]

    def print(self) -> None:
        """The table on stdout, and how many config differences it leaves out; turned where it is too wide."""
        heads, rows = self.rows()
        width = sum(max(map(len, column)) + GAP for column in zip(heads, *rows, strict=True))
        room = shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_TABLE_WIDTH
        if width > room:
            heads, *rows = [list(column) for column in zip(heads, *rows, strict=True)]
        table(heads, rows)
        more = len(self.differences()) - MOST_KEYS
        if more > 0:
            rest = list(self.differences())[MOST_KEYS:]
            print(f"{more:,} more config keys differ: {', '.join(rest)}")


def find_runs(folders: Sequence[Path]) -> RunTable:
    """The runs in these folders and up to two levels below.

    Raises:
        DataError: there is none, or no such folder.
    """
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing is not None:
        raise DataError(f"no folder {missing}", "a folder with runs")
    found = {path.resolve(): path for folder in folders for path in _run_folders(folder, DEPTH)}
    if not found:
        named = ", ".join(map(str, folders))
        raise DataError(
            f"no run in {named}", "a folder that whet train wrote (with config.yml)", "name the folder of runs"
        )
    return RunTable(sorted((read_run(path) for path in found.values()), key=lambda run: run.when))


def read_run(folder: Path) -> Run:
    """What the files of a run tell; damaged ones count as absent."""
    manifest = _json(folder / "manifest.json")
    lines = list(_lines(folder / "metrics.jsonl"))
    memory = manifest.get("memory") or {}
    peak, planned = memory.get("peak_bytes"), memory.get("planned_peak_bytes")
    state = "unfinished" if not manifest else "stopped" if manifest.get("interrupted") else "done"
    return Run(
        folder,
        dict(_flat(_yaml(folder / "config.yml"))),
        state,
        manifest.get("steps") or _last(lines, "step"),
        manifest.get("train_loss") if manifest else _last(lines, "loss"),
        _last(lines, "eval_loss"),
        _metrics(folder),
        manifest.get("train_tokens_per_second") or _last(lines, "tokens_per_second"),
        manifest.get("train_seconds"),
        peak or planned,
        peak is None and planned is not None,
        max((file.stat().st_mtime for file in folder.iterdir() if file.is_file()), default=0.0),
    )


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "config.yml").is_file() and any(
        (folder / name).exists() for name in ("manifest.json", "metrics.jsonl")
    ):
        yield folder
    elif depth:
        for inner in sorted(folder.iterdir()):
            if inner.is_dir() and not inner.name.startswith(".") and not inner.is_symlink():
                yield from _run_folders(inner, depth - 1)


def _metrics(folder: Path) -> dict[str, tuple[float, str]]:
    found: dict[str, tuple[float, str]] = {}
    summary = _json(folder / "compare" / "summary.json")
    models = summary.get("models") or []
    for entry in list((summary.get("metrics") or {}).values())[:1]:
        each = entry.get("models", {})
        values = [
            value for name in (models[0], models[-1]) if (value := (each.get(name) or {}).get("value")) is not None
        ]
        if len(values) == 2:
            found[str(entry["title"])] = (values[1], " -> ".join(f"{value:.3g}" for value in values))
    for file in sorted((folder / "eval").glob("*.json")):
        entries = list((_json(file).get("models") or {}).values())
        for figure in entries[-1] if entries else []:
            value = figure.get("value")
            if isinstance(value, int | float):
                found[f"{figure.get('task')} {figure.get('metric')}"] = (value, f"{value:.3g}")
    return found


def _names(runs: Sequence[Run]) -> list[str]:
    """Folder names; where two are the same, paths."""
    names = [run.folder.resolve().name for run in runs]
    return [str(run.folder) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}{key}.")
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for place, item in enumerate(value):
            yield from _flat(item, f"{prefix}{place}.")
    else:
        yield prefix[:-1], value


def _config_text(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST else "…" + text[-LONGEST + 1 :]


def _memory(run: Run) -> str:
    return "" if not run.peak_bytes else format_size(run.peak_bytes) + (" (planned)" if run.planned else "")


def _figure(value: float | None) -> str:
    return "" if value is None else format_figure(value)


def _last(lines: Sequence[Mapping[str, Any]], key: str) -> Any:
    return next((line[key] for line in reversed(lines) if line.get(key) is not None), None)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
