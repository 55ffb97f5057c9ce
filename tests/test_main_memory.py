"""What a container allows, from files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from whet.main_memory import free_main_memory

MIB = 2**20


def write(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(folder: str, limit: str, used: int, inactive: int) -> dict[str, str]:
    stat = f"anon 4096\nfile 12288\ninactive_file {inactive}\n"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def v1(folder: str, limit: int, used: int, inactive: int) -> dict[str, str]:
    names = ("limit_in_bytes", "usage_in_bytes")
    files = {f"{folder}/memory.{name}": f"{value}\n" for name, value in zip(names, (limit, used), strict=True)}
    return files | {f"{folder}/memory.stat": f"cache 9\ninactive_file 1\ntotal_inactive_file {inactive}\n"}


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert free_main_memory(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    none = write(tmp_path, {"proc/self/cgroup": "0::/\n", **v2("sys/fs/cgroup", "max", 5 * MIB, MIB)})
    assert free_main_memory(none) > 10 * MIB


def test_a_container_of_version_2(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/\n", **v2("sys/fs/cgroup", str(8 * MIB), 5 * MIB, 2 * MIB)})
    assert free_main_memory(root) == 5 * MIB


def test_the_narrowest_group_counts(tmp_path: Path) -> None:
    """A job's own group has no limit, the one around it has."""
    files = v2("sys/fs/cgroup/user/job", "max", 3 * MIB, 0) | v2("sys/fs/cgroup/user", str(4 * MIB), 3 * MIB, MIB // 2)
    root = write(tmp_path, {"proc/self/cgroup": "0::/user/job\n", **files})
    assert free_main_memory(root) == 3 * MIB // 2


def test_a_container_of_version_1_whose_path_is_the_hosts(tmp_path: Path) -> None:
    lines = "11:cpu,cpuacct:/docker/0a1b\n5:memory:/docker/0a1b\n1:name=systemd:/docker/0a1b\n"
    root = write(tmp_path, {"proc/self/cgroup": lines, **v1("sys/fs/cgroup/memory", 6 * MIB, 7 * MIB, 2 * MIB)})
    assert free_main_memory(root) == MIB
    full = write(
        tmp_path / "full", {"proc/self/cgroup": lines, **v1("sys/fs/cgroup/memory", 6 * MIB, 9 * MIB, 2 * MIB)}
    )
    assert free_main_memory(full) == 0
