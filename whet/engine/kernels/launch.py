"""Launches of Triton's kernels: run as they come, or noted, so that their kernels can be compiled many at a time.

Triton compiles a kernel at its first launch, for the dtypes, alignments and constants of that launch, and up to 3.6
builds a small launcher in C for it, which takes longer than the kernel. One after the other that is some ten waits on
one core. Most of each wait is spent outside of Python's lock, so threads are enough to share it among the cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch

ALIGNMENT = 16  # bytes of a pointer, and a divisor of an integer, that Triton compiles for
LARGEST_INT32 = 2**31 - 1
PARSES = 4  # tries of a kernel's source beside other threads


class Launch(NamedTuple):
    """``kernel[grid](*arguments, **constants)``."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


_noted: ContextVar[list[Launch] | None] = ContextVar("noted_launches", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel; within ``noted`` write the launch down instead."""
    launches = _noted.get()
    if launches is None:
        kernel[grid](*arguments, **constants)
    else:
        launches.append(Launch(kernel, grid, arguments, constants))


@contextmanager
def noted() -> Iterator[list[Launch]]:
    """Within it kernels on tensors of any device are noted in the list, and nothing is computed. Of this thread only.

    Meant for tensors on the ``meta`` device, which have shapes, strides and alignments but no numbers.
    """
    launches: list[Launch] = []
    token = _noted.set(launches)
    try:
        yield launches
    finally:
        _noted.reset(token)


def is_noting() -> bool:
    """Whether launches of this thread are noted at the moment."""
    return _noted.get() is not None


def variant(launched: Launch) -> tuple[Any, ...]:
    """What Triton compiles a launch for; launches of one variant share a compiled kernel."""
    kernel = launched.kernel
    free = set(getattr(kernel, "do_not_specialize", None) or ())
    names = getattr(kernel, "arg_names", None) or [""] * len(launched.arguments)
    kinds = tuple(_kind(value, name in free) for name, value in zip(names, launched.arguments, strict=False))
    constants = tuple(sorted((name, str(value)) for name, value in launched.constants.items()))
    return kernel.__module__, kernel.__name__, kinds, constants


def distinct(launches: Iterable[Launch]) -> list[Launch]:
    """One launch of each variant."""
    return list({variant(launched): launched for launched in launches}.values())


def compile_all(launches: Iterable[Launch], device: torch.device, threads: int) -> None:
    """Compile the kernels of these launches for a CUDA device and load them there; nothing is launched.

    A kernel that does not compile fails again at its launch, where the error belongs: nothing is raised here.
    """
    variants = distinct(launches)
    with ThreadPoolExecutor(max(1, min(threads, len(variants)))) as pool:
        for launched in variants:
            pool.submit(_make_ready, launched, device)


def _make_ready(launched: Launch, device: torch.device) -> None:
    with torch.cuda.device(device):
        _ = compiled(launched).run  # builds the launcher and loads the kernel


def compiled(launched: Launch) -> Any:
    """The kernel of a launch as Triton compiles it, in any thread.

    Triton parses a kernel's source by ``ast.parse``, whose depth Python 3.11 counts for all threads together: where a
    garbage collection in the middle of it lets another thread parse, it ends in a SystemError, and is tried again.
    """
    for _ in range(PARSES):
        try:
            return launched.kernel.warmup(*launched.arguments, grid=launched.grid, **launched.constants)
        except SystemError:
            continue
    return launched.kernel.warmup(*launched.arguments, grid=launched.grid, **launched.constants)


def _kind(value: Any, free: bool) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, value.data_ptr() % ALIGNMENT == 0
    if isinstance(value, int):
        size = "int32" if -LARGEST_INT32 - 1 <= value <= LARGEST_INT32 else "int64"
        return size if free else (size, value == 1, value % ALIGNMENT == 0)
    return type(value).__name__
