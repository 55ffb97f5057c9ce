"""The one file that reads bitsandbytes' 4-bit weights, by their attributes: bitsandbytes is not imported.

``Linear4bit.weight`` is a ``Params4bit``: packed bytes with a ``quant_state`` (absmax, shape, blocksize, quant_type,
dtype, and offset and state2 with double quantisation). Written against bitsandbytes 0.50.
"""

from __future__ import annotations

from typing import Any

import torch

from whet.engine.kernels.nf4 import BLOCK, NESTED_BLOCK, NF4, NestedAbsmax, Nf4Weight

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def read_nf4(module_or_param: Any) -> Nf4Weight | str:
    """References to the tensors of a bitsandbytes NF4 weight, or why there is none, in plain words.

    Args:
        module_or_param: a ``Linear4bit`` or its ``weight``. It must be on its device already: bitsandbytes quantises,
            and moves the tensors, when a weight is moved.
    """
    weight = getattr(module_or_param, "weight", module_or_param)
    state = getattr(weight, "quant_state", None) or getattr(module_or_param, "quant_state", None)
    if state is None:
        quantised_later = hasattr(weight, "bnb_quantized")
        return "a 4-bit weight is not quantised yet" if quantised_later else "a weight is not bitsandbytes' 4-bit kind"
    problem = _problem(weight, state)
    if problem:
        return problem
    packed = weight.data.contiguous().view(torch.uint8).reshape(-1)
    nested = None
    if state.state2 is not None:
        second = state.state2
        offset = torch.as_tensor(state.offset, dtype=torch.float32, device=packed.device).reshape(())
        nested = NestedAbsmax(second.code.float().contiguous(), second.absmax.contiguous(), offset, second.blocksize)
    absmax = state.absmax.reshape(-1) if nested else state.absmax.reshape(-1).float()
    rows, columns = state.shape
    return Nf4Weight(packed, absmax, (rows, columns), state.dtype, state.blocksize, nested)


def _problem(weight: torch.Tensor, state: Any) -> str:
    if state.quant_type != "nf4":
        return f"a 4-bit weight is stored as {state.quant_type}, not nf4"
    if getattr(state, "packing_format_for_cpu", False):
        return "a 4-bit weight was packed anew for generation on the CPU"
    if state.shape is None or len(state.shape) != 2:
        return f"a 4-bit weight has the shape {state.shape}, not two dimensions"
    if state.dtype not in _DTYPES:
        return f"a 4-bit weight stands for {state.dtype}"
    if state.blocksize not in _BLOCKS:
        return f"a 4-bit weight has blocks of {state.blocksize}"
    rows, columns = state.shape
    if weight.numel() * weight.element_size() < (rows * columns + 1) // 2:
        return "a 4-bit weight is a part of its tensor only (sharded)"
    second = state.state2
    if second is not None and (second.absmax.dtype, second.dtype) != (torch.float32, torch.float32):
        return "a 4-bit weight's second absmax is not float32"
    return ""


def quantise_nf4(w_NK: torch.Tensor, double: bool = False) -> Nf4Weight:
    """The plain quantiser, for tests and benchmarks: the nearest of the 16 values, blocks of 64.

    Args:
        w_NK: a floating-point weight; its dtype is what the quantised one stands for (float32 for float64).
        double: the absmax in 8 bits, with bitsandbytes' dynamic map.
    """
    N, K = w_NK.shape
    flat = w_NK.detach().float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(1)
    table = torch.tensor(NF4, device=flat.device)
    scaled = blocks * (1 / absmax.clamp_min(1e-38))[:, None]
    q = torch.bucketize(scaled.clamp(-1, 1), (table[1:] + table[:-1]) / 2).to(torch.uint8).flatten()
    q = torch.nn.functional.pad(q[: len(flat)], (0, len(flat) % 2))
    dtype = w_NK.dtype if w_NK.dtype in _DTYPES else torch.float32
    packed = (q[::2] << 4) | q[1::2]
    if not double:
        return Nf4Weight(packed, absmax, (N, K), dtype)
    small, nested = _quantise_absmax(absmax)
    return Nf4Weight(packed, small, (N, K), dtype, nested=nested)


def _quantise_absmax(absmax: torch.Tensor) -> tuple[torch.Tensor, NestedAbsmax]:
    offset = absmax.mean()
    code = _dynamic_map().to(absmax.device)
    centred = torch.nn.functional.pad(absmax - offset, (0, -len(absmax) % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
    second = centred.abs().amax(1)
    scaled = centred / second.clamp_min(1e-38)[:, None]
    small = torch.bucketize(scaled, (code[1:] + code[:-1]) / 2).to(torch.uint8).flatten()[: len(absmax)]
    return small.contiguous(), NestedAbsmax(code, second, offset)


def _dynamic_map() -> torch.Tensor:
    """256 values, finer towards zero: 2^i per sign and power of ten (arXiv 1511.04561, as bitsandbytes builds it)."""
    positive = []
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        positive.append((edges[:-1] + edges[1:]) / 2 * 10.0 ** (power - 6))
    values = torch.cat(positive)
    return torch.cat([-values, values, torch.tensor([0.0, 1.0])]).sort().values
