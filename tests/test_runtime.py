"""Facts about the machine, seeds and versions."""

from __future__ import annotations

import gc
import os
import platform
import random
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch

from whet import runtime

on_cpu = pytest.mark.skipif(runtime.device().type != "cpu", reason="about machines without a GPU")


def test_the_seed_decides_all_three_generators() -> None:
    def draw(seed: int) -> tuple[float, float, float]:
        runtime.seed_everything(seed)
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    first = draw(7)
    assert draw(7) == first
    assert all(a != b for a, b in zip(first, draw(8), strict=True))


def test_a_seed_beyond_32_bits_is_taken() -> None:
    runtime.seed_everything(2**40 + 1)


@on_cpu
@pytest.mark.parametrize("asked", [None, torch.float32, torch.float16])
def test_a_cpu_holds_float32(asked: torch.dtype | None) -> None:
    dtype, reason = runtime.weight_dtype(asked)
    assert dtype == torch.float32
    assert ("slow on a CPU" in reason) == (asked is torch.float16)


@on_cpu
@pytest.mark.parametrize(("asked", "training"), [(None, True), (torch.bfloat16, True), (torch.bfloat16, False)])
def test_a_cpu_that_multiplies_faster_in_bfloat16_trains_in_it(asked: torch.dtype | None, training: bool) -> None:
    fast = runtime.cpu_bf16_gain() >= runtime.BF16_GAIN
    dtype, reason = runtime.weight_dtype(asked, training=training)
    assert dtype == (torch.bfloat16 if fast else torch.float32)
    assert ("times as fast" if fast else "slow on this CPU") in reason


@on_cpu
def test_asked_for_float32_is_trained_in() -> None:
    assert runtime.weight_dtype(torch.float32, training=True) == (torch.float32, "asked for")


@on_cpu
def test_the_gain_is_what_a_larger_product_shows() -> None:
    """A product of another shape, long enough that other programs matter little, is on the same side of the border."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(1024, 768, dtype=dtype), torch.ones(768, 1536, dtype=dtype)
        best = float("inf")
        for _ in range(6):
            began = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - began)
        return best

    gain = seconds(torch.float32) / seconds(torch.bfloat16)
    assert (gain >= runtime.BF16_GAIN) == (runtime.cpu_bf16_gain() >= runtime.BF16_GAIN)


@on_cpu
def test_a_cpu_has_no_bfloat16_autocast() -> None:
    assert runtime.bf16_supported() is False


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("PASSIVE", str(runtime.SPIN_COUNT))),
        ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_a_users_own_openmp_settings_stay(
    given: dict[str, str], expected: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what share_cores sets is taken back at the end
        monkeypatch.delenv(name)
        if name in given:
            monkeypatch.setenv(name, given[name])
    runtime.share_cores()
    assert (os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT")) == expected


@pytest.mark.gpu
def test_a_gpu_holds_what_it_is_asked_for() -> None:
    assert runtime.device().type == "cuda"
    assert runtime.weight_dtype(torch.float16).dtype == torch.float16
    assert (runtime.weight_dtype().dtype == torch.bfloat16) == runtime.bf16_supported()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    code = """
import resource, sys, torch
from whet import runtime
if sys.argv[1] == "keep":
    runtime.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        a, b = torch.ones(4 << 20), torch.ones(1 << 20)  # 16 and 4 MiB
        del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    found = {}
    for how in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True)
        found[how] = int(done.stdout)
    assert found["keep"] * 10 <= found["default"]


def test_installed_does_not_import() -> None:
    code = (
        "import sys; from whet import runtime; "
        "print(runtime.installed('torch'), runtime.installed('of_nobody'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


def test_versions() -> None:
    found = runtime.versions()
    assert found["whet"] == version("whet") and found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert all(isinstance(text, str) and text for text in found.values())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process")
def test_cores_are_those_that_this_process_may_use() -> None:
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert runtime.cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert runtime.cores() == len(mine)


def test_device_facts_are_words() -> None:
    facts = runtime.device_facts()
    assert {"system", "cores", "device", "number format"} <= facts.keys()
    assert facts["device"] == runtime.device().type and platform.system() in facts["system"]
    assert all(isinstance(text, str) and text for text in facts.values())


def test_imports_are_not_slowed_by_the_collector() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), runtime.quick_imports():
        assert not gc.isenabled()
        raise ImportError("of a library")
    assert gc.isenabled()
    gc.disable()
    try:
        with runtime.quick_imports():
            pass
        assert not gc.isenabled(), "a user's own setting stays"
    finally:
        gc.enable()


def test_what_an_import_of_torch_leaves_is_not_walked_again() -> None:
    """Only where whet imports torch: models that exist before would never be collected."""
    program = """
import gc
{before}
from whet.runtime import quick_imports
with quick_imports():
    import torch
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
"""
    for before, frozen in (("", True), ("import torch", False)):
        command = [sys.executable, "-c", program.format(before=before)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", str(frozen)]
