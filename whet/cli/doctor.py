"""``whet doctor``: what this machine has, what is missing, and the command that adds it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from typing import Any, NamedTuple

import typer

EXTRAS = {
    "serve": "llama.cpp: proof of an export, chat with a GGUF, whet serve",
    "cuda": "4-bit weights and 8-bit optimizers on an NVIDIA GPU",
    "eval": "tasks of lm-eval (whet eval)",
    "excel": "examples from Excel files",
    "wandb": "tracker Weights & Biases",
    "tensorboard": "tracker TensorBoard",
    "mlflow": "tracker MLflow",
    "trackio": "tracker trackio",
}


class Package(NamedTuple):
    """One requirement of whet: its version here, or None; and whether that version fits."""

    name: str
    wanted: str
    version: str | None
    fits: bool


def doctor() -> None:
    """Show device and versions, and what is missing with the command that adds it."""
    from whet.console import table

    table(["machine", ""], list(_facts().items()))
    core = requirements("")
    table(["package", "version", "needed", ""], [_row(package) for package in core])
    rows: list[list[str]] = []
    for extra, use in EXTRAS.items():
        packages = requirements(extra)
        there = ", ".join(f"{package.name} {package.version}" for package in packages if package.version)
        missing = any(not package.fits for package in packages)
        command = f"pip install 'whet[{extra}]'" if missing else "" if packages else "no wheel for this system"
        rows.append([use, there or "-", command])
    table(["optional part", "installed", "to add it"], rows)
    broken = [package for package in core if not package.fits]
    if broken:
        print("to do: pip install " + " ".join(f"'{package.name}{package.wanted}'" for package in broken))
        raise typer.Exit(1)


def _row(package: Package) -> list[str]:
    state = "" if package.fits else "missing" if package.version is None else "does not fit"
    return [package.name, package.version or "-", package.wanted, state]


def requirements(extra: str) -> list[Package]:
    """whet's own requirements on this system: of one extra, or with "" those always needed."""
    from importlib import metadata

    from packaging.requirements import Requirement

    found = []
    for line in metadata.requires("whet") or []:
        wanted = Requirement(line)
        always = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if (always and extra) or not (always or (wanted.marker and wanted.marker.evaluate({"extra": extra}))):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found.append(Package(wanted.name, str(wanted.specifier), None, False))
            continue
        fits = wanted.specifier.contains(version, prereleases=True)
        found.append(Package(wanted.name, str(wanted.specifier), version, fits))
    return found


def _facts() -> dict[str, str]:
    from importlib.metadata import version

    free = shutil.disk_usage(".").free / 1e9
    facts = {
        "whet": version("whet"),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(_cores()),
        "memory": _memory(),
        "disk free here": f"{free:.1f} GB" + ("" if os.access(".", os.W_OK) else ", but this folder is not writable"),
    }
    return facts | _device()


def _device() -> dict[str, str]:
    """Accelerator facts; without torch the rest of the report still comes."""
    try:
        from whet import runtime
    except ImportError as error:
        return {"device": f"unknown: {error}"}
    facts: dict[str, Any] = runtime.device_facts()
    return {name: str(value) for name, value in facts.items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{total:.1f} GiB"
