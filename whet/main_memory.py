"""How much main memory this process may still take: of the machine's, and of what a container allows.

Sources: the Linux kernel's documentation, "Control Group v2" (memory.max, memory.current, memory.stat) and "Memory
Resource Controller" of version 1 (memory.limit_in_bytes, memory.usage_in_bytes).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil


class _Version(NamedTuple):
    """Where a version of control groups has its folders, and the names of its files."""

    mount: str
    limit: str
    usage: str
    cache: str  # a line of memory.stat: file pages that are given up first


V1 = _Version("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = _Version("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def free_main_memory(root: Path = Path("/")) -> int:
    """Bytes.

    Args:
        root: of the file system that says what this process's groups allow.
    """
    return min([psutil.virtual_memory().available, *_rooms(root)])


def _rooms(root: Path) -> Iterator[int]:
    """What is left of the limit of each group that this process is in, its own and those around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = V1 if controllers else V2
        group = root / version.mount / path.lstrip("/")  # in a container the path may be the host's, and not be there
        for folder in (group, *group.parents):
            room = _room(folder, version)
            if room is not None:
                yield room
            if folder == root / version.mount:
                break


def _room(folder: Path, version: _Version) -> int | None:
    """None where there is no limit."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in (version.limit, version.usage))
        stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - int(used) + int(stat.get(version.cache, 0)))
