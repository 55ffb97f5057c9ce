"""Where the work runs: device, number formats and why, seeds, versions.

torch is imported inside the functions, so that ``whet --help`` stays fast.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import importlib.util
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "gguf", "xllamacpp")

# A CPU with bfloat16 instructions multiplies 2 to 8 times as fast in it, one that emulates it several times slower:
# this border is far from both, so that the choice is the same every time.
BF16_GAIN = 1.5
PROBE_SIZE, PROBE_REPEATS = 512, 5
SPIN_COUNT = 5_000  # turns of GNU OpenMP's waiting loop before a thread sleeps

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT, MOST_KEPT = 1 << 26, 1 << 29  # bytes: a larger tensor, and more than that free at the end, goes back


class Choice(NamedTuple):
    """A number format and the reason for it."""

    dtype: torch.dtype
    reason: str


def device() -> torch.device:
    """The accelerator of this machine, else its CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def bf16_supported() -> bool:
    """Whether the GPU computes in bfloat16 (NVIDIA Ampere and newer). False on a CPU, see ``cpu_bf16_gain``."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


@lru_cache(maxsize=1)
def cpu_bf16_gain() -> float:
    """How many times as fast this CPU multiplies in bfloat16 as in float32; below 1 where it emulates it.

    Measured once, in some 20 ms: the fastest of a few small products each, in turns. What a CPU says of itself is not
    enough: torch takes bfloat16 everywhere, and the library below it decides which instructions it uses.
    """
    import torch

    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    operands = {dtype: torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=dtype) for dtype in best}
    for _ in range(PROBE_REPEATS + 1):  # the first one is slow, and not the fastest
        for dtype, matrix in operands.items():
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            best[dtype] = min(best[dtype], time.perf_counter() - began)
    return best[torch.float32] / best[torch.bfloat16]


def weight_dtype(asked: torch.dtype | None = None, *, training: bool = False) -> Choice:
    """The format of frozen weights here.

    On a CPU: float32, in which exports are proved; bfloat16 to train (or where asked for), if the CPU multiplies
    faster in it.

    Args:
        training: adapters will be trained on these weights.
    """
    import torch

    kind = device().type
    if kind == "cpu":
        return _cpu_dtype(asked, training)
    if asked is not None:
        return Choice(asked, "asked for")
    if kind == "cuda" and bf16_supported():
        return Choice(torch.bfloat16, "the GPU computes in it")
    return Choice(torch.float16, "the GPU has no bfloat16")


def _cpu_dtype(asked: torch.dtype | None, training: bool) -> Choice:
    import torch

    if asked is torch.float16:
        return Choice(torch.float32, "float16 is slow on a CPU")
    if asked not in (None, torch.bfloat16):
        return Choice(torch.float32, "asked for" if asked is torch.float32 else "a CPU computes fastest in it")
    if asked is None and not training:
        return Choice(torch.float32, "exact")
    gain = cpu_bf16_gain()
    if gain >= BF16_GAIN:
        return Choice(torch.bfloat16, f"this CPU multiplies {gain:.1f} times as fast in it")
    return Choice(torch.float32, "bfloat16 is slow on this CPU")


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def share_cores() -> None:
    """Let waiting OpenMP threads spin for some microseconds, then sleep; effective before torch is imported.

    Small models wait many thousand times a second. Threads that sleep at once have to be woken as often; threads that
    spin on take the time of whoever else works on the cores (docs/experiments.md has both). A user's own settings stay.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # for OpenMP libraries that do not know the count
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Within it Python looks for no garbage cycles: for imports of torch and what stands on it.

    They make some 700,000 objects that stay, and each full collection on the way walks over all of them: a quarter of
    the time of such an import (docs/experiments.md). Where torch is imported here, so that no model or tensor can be
    among what exists, later collections leave these objects out too.
    """
    collecting, first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            if first and "torch" in sys.modules:
                gc.freeze()
            gc.enable()


def keep_freed_memory() -> None:
    """Let the C library keep memory that torch frees on a CPU, instead of handing every large tensor back.

    By default each tensor of some hundred KiB or more is new memory, and the kernel fills it page by page on first use:
    a tenth of a training step of a small model (docs/experiments.md). glibc only; elsewhere nothing happens.
    """
    import ctypes

    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    library.mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """Versions of whet, Python and the packages below it; a missing package is left out."""
    found = {"python": platform.python_version()}
    for name in ("whet", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_facts() -> dict[str, str]:
    """What the machine has, in words, for ``whet doctor`` and the manifest of a run."""
    import torch

    facts = {"system": f"{platform.system()} {platform.machine()}", "cores": str(cores())}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        facts["memory"] = f"{memory / 2**30:.1f} GiB"
    here = device()
    facts["device"] = here.type
    if here.type == "cuda":
        properties = torch.cuda.get_device_properties(here)
        facts["gpu"] = f"{torch.cuda.device_count()} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        facts["cuda"] = str(torch.version.cuda)
    dtype, reason = weight_dtype(training=True)
    facts["number format"] = f"{str(dtype).removeprefix('torch.')} ({reason})"
    return facts
