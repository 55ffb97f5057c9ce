"""Whether Triton's kernels can run here: asked once, before the first kernel."""

from __future__ import annotations

import functools
import importlib.util
import threading

import torch

OLDEST = (7, 0)  # compute capability: Triton compiles for Volta and later
_ASKING = threading.Lock()


def triton_problem() -> str:
    """Why Triton's kernels cannot run on this machine, in plain words; "" if they can.

    A small kernel is compiled and run: Triton may be installed and yet find no C compiler for its launcher.
    Whoever asks while another thread tries that waits for the answer.
    """
    with _ASKING:
        return _problem()


@functools.cache
def _problem() -> str:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability() < OLDEST:
        return "the GPU is too old for Triton"
    from whet.engine.kernels import probe_triton

    try:
        probe_triton.run()
    except Exception as error:  # whatever the compiler, the linker or the driver say
        first_line = str(error).strip().partition("\n")[0]
        return f"Triton's kernels do not run: {type(error).__name__}: {first_line}"
    return ""
