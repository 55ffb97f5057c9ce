"""Triton's row kernels beside their plain twins: the same calls, for the interpreter and for the device.

A case runs one function (twin or kernel: they have the same signature) on fresh poisoned buffers and returns what it
wrote. ``exact`` is the twin on the same inputs, cast to float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from kernel_tensors import around, error, filled, rotary, view

from whet.engine.kernels import copy as copy_rows
from whet.engine.kernels import copy_triton, glu, glu_triton, norm, norm_triton, rope, rope_triton
from whet.engine.kernels.launch import Launch, distinct, noted

EPS = 1e-5
ROUNDING = {torch.float32: 1e-6, torch.float16: 1e-5, torch.bfloat16: 1e-4}  # what a few last bits may cost
FACTOR = 1.02  # a kernel's error to its twin's
Tensors = dict[str, torch.Tensor]


class Case(NamedTuple):
    """``run(function, *inputs)`` writes into new buffers and into its inputs; returns what was written, by name."""

    twin: Callable[..., None]
    kernel: Callable[..., None]
    inputs: list[torch.Tensor]
    run: Callable[..., Tensors]


def like(tensor: torch.Tensor, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    return view(shape or tensor.shape, tensor.dtype, str(tensor.device))


def again(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, poison around it."""
    return like(tensor).copy_(tensor)


def wide_empty(x: torch.Tensor) -> torch.Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.full(x.shape[:-1], float("nan"), dtype=dtype, device=x.device)


def norm_forward(shape: tuple[int, int, int], offset: float, dtype: torch.dtype, device: str) -> Case:
    def run(function: Callable[..., None], x: torch.Tensor, weight: torch.Tensor) -> Tensors:
        out, rstd = like(x), wide_empty(x)
        function(x, weight, EPS, offset, out, rstd)
        return {"y": out, "rstd": rstd}

    inputs = [filled(shape, dtype, 1, device, scale=2.0), filled(shape[-1:], dtype, 2, device)]
    return Case(norm._forward, norm_triton.forward, inputs, run)


def norm_backward(shape: tuple[int, int, int], offset: float, residual: bool, dtype: torch.dtype, device: str) -> Case:
    def run(function: Callable[..., None], dy: torch.Tensor, x: torch.Tensor, *rest: torch.Tensor) -> Tensors:
        weight, extra = rest
        out, rstd = like(x), (x.to(wide_empty(x).dtype).square().mean(-1) + EPS).rsqrt()
        function(dy, x, weight, rstd, offset, extra if residual else None, out)
        return {"dx": out}

    inputs = [filled(s, dtype, seed, device) for seed, s in enumerate((shape, shape, shape[-1:], shape))]
    return Case(norm._backward, norm_triton.backward, inputs, run)


def norm_backward_trained(
    shape: tuple[int, int, int], offset: float, residual: bool, into: str, dtype: torch.dtype, device: str
) -> Case:
    """With the weight's gradient added to numbers that are there; ``into``: dx goes to "new", "dy" or "residual"."""

    def run(function: Callable[..., None], dy: torch.Tensor, x: torch.Tensor, *rest: torch.Tensor) -> Tensors:
        weight, extra = rest
        rstd = (x.to(wide_empty(x).dtype).square().mean(-1) + EPS).rsqrt()
        dy, extra = again(dy), again(extra)
        out = {"new": like(x), "dy": dy, "residual": extra}[into]
        dweight = filled(shape[-1:], rstd.dtype, 8, device)
        function(dy, x, weight, rstd, offset, extra if residual else None, out, dweight)
        return {"dx": out, "dweight": dweight}

    inputs = [filled(s, dtype, seed, device) for seed, s in enumerate((shape, shape, shape[-1:], shape))]
    return Case(norm._backward, norm_triton.backward, inputs, run)


def rotate(shape: tuple[int, int, int], pairs: int, inverse: bool, dtype: torch.dtype, device: str) -> Case:
    def run(function: Callable[..., None], t: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Tensors:
        t = again(t)
        function(t, cos, sin, inverse)
        return {"t": t}

    inputs = [filled(shape, dtype, 3, device), *rotary(shape[0], pairs, dtype, device)]
    return Case(rope._rotate_, rope_triton.rotate_, inputs, run)


def glu_forward(tokens: int, width: int, activation: str, dtype: torch.dtype, device: str) -> Case:
    def run(function: Callable[..., None], gu: torch.Tensor) -> Tensors:
        out = like(gu, (tokens, width))
        function(gu, out, activation)
        return {"h": out}

    return Case(glu._forward, glu_triton.forward, [filled((tokens, 2 * width), dtype, 4, device, scale=2.0)], run)


def glu_backward(tokens: int, width: int, activation: str, dtype: torch.dtype, device: str) -> Case:
    def run(function: Callable[..., None], dh: torch.Tensor, gu: torch.Tensor) -> Tensors:
        dh, gu = again(dh), again(gu)
        function(dh, gu, activation)
        return {"h": dh, "dgate_dup": gu}

    # the seed and scale of glu_forward: its h must come out again
    inputs = [filled((tokens, width), dtype, 5, device), filled((tokens, 2 * width), dtype, 4, device, scale=2.0)]
    return Case(glu._backward_, glu_triton.backward_, inputs, run)


def copy(rows: int, width: int, target: torch.dtype, dtype: torch.dtype, device: str) -> Case:
    def plain(source: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(source)

    def run(function: Callable[..., None], source: torch.Tensor) -> Tensors:
        out = view((rows, width), torch.float64 if source.dtype == torch.float64 else target, str(source.device))
        function(source, out)
        return {"rows": out}

    return Case(plain, copy_triton.copy, [filled((rows, width), dtype, 6, device)], run)


def rows_summed(rows: int, width: int, times: int, dtype: torch.dtype, device: str) -> Case:
    """Rows of a source, some of them not there, once or added up."""

    def run(function: Callable[..., None], source: torch.Tensor) -> Tensors:
        index = torch.randint(-rows // 2, rows, (times, rows + 5), generator=torch.Generator().manual_seed(rows))
        index[0, 0], index[-1, -1] = -1, rows - 1
        out = view((rows + 5, width), source.dtype, str(source.device))
        function(source, index.to(source.device), out)
        return {"rows": out}

    return Case(copy_rows._sum_rows, copy_triton.sum_rows, [filled((rows, width), dtype, 7, device)], run)


def cases(dtype: torch.dtype, device: str, large: bool) -> dict[str, Case]:
    """Sizes are no multiples of a tile; ``large`` ones are for a device."""
    norms = [(67, 1, 200), (5, 1, 2500), (23, 3, 40)]
    heads = [((23, 3, 16), 8), ((37, 5, 96), 48), ((9, 2, 64), 24)]
    glus, copies = [(7, 300), (3, 2600)], [(9, 300), (3, 5000), (130, 24)]
    if large:
        norms += [(1027, 1, 4096), (515, 32, 128), (33, 1, 14336), (65, 1, 20000)]
        heads += [((1027, 40, 128), 64), ((515, 32, 96), 48)]
        glus, copies = [*glus, (513, 14336), (130, 8190)], [*copies, (1027, 28672), (4099, 64)]
    found: dict[str, Case] = {}
    for shape in norms:
        for offset in (0.0, 1.0):
            found[f"norm {shape} {offset}"] = norm_forward(shape, offset, dtype, device)
            for residual in (False, True):
                name = f"norm backward {shape} {offset} {residual}"
                found[name] = norm_backward(shape, offset, residual, dtype, device)
            for residual, into in ((False, "new"), (False, "dy"), (True, "new"), (True, "dy"), (True, "residual")):
                name = f"norm backward trained {shape} {offset} {residual} {into}"
                found[name] = norm_backward_trained(shape, offset, residual, into, dtype, device)
    for shape, pairs in heads:
        for inverse in (False, True):
            found[f"rope {shape} {pairs} {inverse}"] = rotate(shape, pairs, inverse, dtype, device)
    for tokens, width in glus:
        for activation in ("silu", "gelu_tanh"):
            found[f"glu {tokens} {width} {activation}"] = glu_forward(tokens, width, activation, dtype, device)
            found[f"glu backward {tokens} {width} {activation}"] = glu_backward(
                tokens, width, activation, dtype, device
            )
    for rows, width in copies:
        for target in (torch.float32, torch.bfloat16):
            found[f"copy {rows} {width} {target}"] = copy(rows, width, target, dtype, device)
        for times in (1, 2):
            found[f"sum {rows} {width} {times}"] = rows_summed(rows, width, times, dtype, device)
    return found


def launches_of(chosen: Iterable[Case]) -> list[Launch]:
    """The kernels of these cases, which one after the other take minutes to compile; nothing is computed."""
    with noted() as launches:
        for case in chosen:
            case.run(case.kernel, *case.inputs)
    return distinct(launches)


def problems(case: Case, dtype: torch.dtype, bfloat16_factor: float = FACTOR) -> list[str]:
    """Where the kernel is worse than its twin in the same dtype, or wrote beside its buffer."""
    exact = case.run(case.twin, *(tensor.double() for tensor in case.inputs))
    plain, found = case.run(case.twin, *case.inputs), case.run(case.kernel, *case.inputs)
    wrong = []
    for name, values in found.items():
        rounded = dtype if name == "dweight" else values.dtype  # dweight is float32, of an n that may be rounded
        factor = bfloat16_factor if rounded == torch.bfloat16 else FACTOR
        mine, bound = error(values, exact[name]), error(plain[name], exact[name]) * factor + ROUNDING[dtype]
        if not mine <= bound:  # NaN fails too
            wrong.append(f"{name}: relative error {mine:.3g}, the twin allows {bound:.3g}")
        if name != "rstd" and not bool(around(values).isnan().all()):
            wrong.append(f"{name}: written outside of its rows")
    return wrong


def same_h(dtype: torch.dtype, device: str, activation: Any) -> bool:
    """Whether the backward's h is bit for bit the forward's."""
    forward, backward = (make(7, 2600, activation, dtype, device) for make in (glu_forward, glu_backward))
    first = forward.run(forward.kernel, *forward.inputs)["h"]
    return torch.equal(first, backward.run(backward.kernel, *backward.inputs)["h"])


def same_rounding(dtype: torch.dtype, device: str, offset: float) -> float:
    """The share of a norm's values that are bit for bit the twin's: low where a rounding is missing or too many."""
    case = norm_forward((67, 1, 200), offset, dtype, device)
    return float((case.run(case.twin, *case.inputs)["y"] == case.run(case.kernel, *case.inputs)["y"]).double().mean())


def sum_error(dtype: torch.dtype, device: str, offset: float) -> float:
    """The error of a norm weight's gradient to the twin's: both add the same numbers, rounded in the same place."""
    case = norm_backward_trained((67, 1, 200), offset, False, "new", dtype, device)
    found, twins = (case.run(function, *case.inputs)["dweight"] for function in (case.kernel, case.twin))
    return error(found, twins)
