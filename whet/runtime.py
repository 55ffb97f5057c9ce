"""Where the work runs: device, number formats and why, seeds, versions.

torch is imported inside the functions, so that ``whet --help`` stays fast.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "gguf", "xllamacpp")


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
    """Whether the GPU computes in bfloat16 (NVIDIA Ampere and newer). False on a CPU: it would be emulated."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def weight_dtype(asked: torch.dtype | None = None) -> Choice:
    """The format of frozen weights here.

    A CPU without bfloat16 arithmetic computes in float32: bfloat16 there is several times slower, and float16 is both
    slower and less exact.
    """
    import torch

    kind = device().type
    if kind == "cpu":
        if asked in (torch.float16, torch.bfloat16):
            return Choice(torch.float32, f"{str(asked).removeprefix('torch.')} is slow on a CPU")
        return Choice(torch.float32, "a CPU computes fastest in it")
    if asked is not None:
        return Choice(asked, "asked for")
    if kind == "cuda" and bf16_supported():
        return Choice(torch.bfloat16, "the GPU computes in it")
    return Choice(torch.float16, "the GPU has no bfloat16")


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def share_cores() -> None:
    """Let waiting OpenMP threads sleep instead of spin; effective before torch is imported.

    Small models wait many thousand times a second. With another program on the cores, spinning threads take the time
    that the working one needs: a training step took 4.9 s spinning and 1.2 s sleeping (docs/experiments.md). A user's
    own setting stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
    dtype, reason = weight_dtype()
    facts["number format"] = f"{str(dtype).removeprefix('torch.')} ({reason})"
    return facts
