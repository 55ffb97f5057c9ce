"""Training arguments that this machine can follow. What it cannot is replaced, and said once."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import torch

from whet import runtime
from whet.console import notice
from whet.train.optim import name_of

NEED_BITSANDBYTES = (
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
)
NEED_TORCHAO = ("adamw_torch_8bit", "adamw_torch_4bit")
PACKAGES = {  # start of a name -> what is imported, and what pip calls it
    "galore_": ("galore_torch", "galore-torch"),
    "apollo_": ("apollo_torch", "apollo-torch"),
    "schedule_free_": ("schedulefree", "schedulefree"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
    "adamw_torch_xla": ("torch_xla", "torch_xla"),
    "adamw_torch_npu_fused": ("torch_npu", "torch_npu"),
    **dict.fromkeys(NEED_TORCHAO, ("torchao", "torchao")),
}
ALIASES = {"paged_adamw": "paged_adamw_32bit"}  # of other trainers
COMPILERS = ("g++", "clang++", "c++")
PLAIN = "adamw_torch"


def optimizer_name(asked: str) -> str:
    """The optimizer to use: ``asked``, or plain AdamW where device or package cannot."""
    if asked not in NEED_BITSANDBYTES:
        return _with_package(asked)
    if runtime.device().type != "cuda":
        notice(f"{asked} needs an NVIDIA GPU; going on with {PLAIN}")
        return PLAIN
    if not runtime.installed("bitsandbytes"):
        notice(f"{asked} needs bitsandbytes (pip install 'whet[cuda]'); going on with {PLAIN}")
        return PLAIN
    return ALIASES.get(asked, asked)


def _with_package(asked: str) -> str:
    """Names of transformers whose optimizer another package brings."""
    needed = next((package for start, package in PACKAGES.items() if asked.startswith(start)), None)
    if needed is not None and not runtime.installed(needed[0]):
        notice(f"{asked} needs {needed[0]} (pip install {needed[1]}); going on with {PLAIN}")
        return PLAIN
    if asked in NEED_TORCHAO and not any(map(shutil.which, COMPILERS)):
        notice(f"{asked} is compiled when it starts and needs a C++ compiler ({COMPILERS[0]}); going on with {PLAIN}")
        return PLAIN
    return asked


def mixed_precision(bf16: bool | str | None, fp16: bool) -> tuple[bool, bool]:
    """(bf16, fp16) autocast for this device; "auto" is bfloat16 where the GPU has it, float16 on older ones.

    None on a CPU: there the weights' own format decides (``weights_asked``).
    """
    if runtime.device().type != "cuda":
        used = runtime.weight_dtype(training=True).dtype
        if fp16 or (bf16 is True and used != torch.bfloat16):
            notice(f"{'fp16' if fp16 else 'bf16'} is slow on this device, and is not used")
        return False, False
    capable = runtime.bf16_supported()
    if bf16 == "auto":
        return capable, not capable
    if bf16 and not capable:
        notice("this GPU has no bfloat16; training in float16")
        return False, True
    return bool(bf16), fp16


def weights_asked(bf16: bool | str | None, *, frozen: bool) -> torch.dtype | None:
    """The format that a run asks of the weights it loads; None: what trains fastest here.

    Args:
        bf16: the run's key; false keeps a CPU in float32.
        frozen: only adapters are trained. Weights that are trained themselves are bfloat16, with float32 masters
            (masters.py), on a GPU that computes in it, and on a CPU that was asked to and is fast in it. Elsewhere they
            are float32: a CPU's forward then sees updates that are smaller than a step of bfloat16, too.
    """
    kind = runtime.device().type
    if kind == "cpu":
        return torch.float32 if bf16 is False or not (frozen or bf16 is True) else None
    narrow = kind == "cuda" and bf16 and runtime.bf16_supported()
    return None if frozen or narrow else torch.float32


def settle_own(args: Any) -> None:
    """Before transformers looks at them: the precision and the optimizer of a trainer's new arguments, in place."""
    args.bf16, args.fp16 = mixed_precision(args.bf16, args.fp16)
    args.optim = optimizer_name(name_of(args))


def settle(args: Any) -> Any:
    """A copy of a ``TrainingArguments`` that runs here; the caller's object is left as it was."""
    settled = copy.copy(args)
    settled.bf16, settled.fp16 = mixed_precision(args.bf16, args.fp16)
    settled.mixed_precision = "bf16" if settled.bf16 else "fp16" if settled.fp16 else "no"
    name = optimizer_name(name_of(args))
    settled.optim = type(args.optim)(name) if hasattr(args.optim, "value") else name
    return settled
