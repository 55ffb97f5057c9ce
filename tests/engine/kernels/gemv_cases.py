"""Cases of the products with few rows against float64: on the GPU, and in Triton's interpreter when run as a program.

Weights are strided views, outputs lie in NaN-filled buffers, sizes are no multiples of a block.
"""

from __future__ import annotations

from itertools import product

import torch
from loss_kernel_cases import nf4_weight

from whet.engine.kernels.gemv import Weight, down, project_plain
from whet.engine.kernels.nf4 import NestedAbsmax, Nf4Weight, dequantise_nf4_plain

ROWS = (1, 5, 19)
DENSE_SHAPES = [((7, 5, 3), 40), ((33,), 1030), ((6, 70), 129)]
NF4_SHAPES = [((7, 5, 3), 64), ((33,), 1152), ((6, 70), 192)]
ERRORS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # of an output, to the largest one


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int, gap: int = 8) -> torch.Tensor:
    """Normal values in a view of a wider NaN-filled buffer."""
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.full((*shape[:-1], shape[-1] + gap), float("nan"), dtype=dtype)
    buffer[..., : shape[-1]] = torch.randn(shape, generator=generator).to(dtype)
    return buffer[..., : shape[-1]]


def weights_of(
    widths: tuple[int, ...], k: int, dtype: torch.dtype, *, packed: bool, double: bool, extras: bool
) -> list[Weight]:
    """With ``extras``: biases on the first, an adapter of another rank on each but the second."""
    out, column = [], 0
    for number, n in enumerate(widths):
        w = nf4_weight((n, k), double, dtype, "cpu") if packed else random((n, k), dtype, 10 + number)
        rank = (3, 0, 5)[number] if extras else 0
        bias = random((n,), dtype, 20 + number) if extras and number == 0 else None
        b = random((n, rank), torch.float32, 30 + number) if rank else None
        out.append(Weight(w, bias, b, 0.5 + number, column))
        column += rank
    return out


def exact(weights: list[Weight], x: torch.Tensor, p: torch.Tensor | None, add: torch.Tensor | None) -> torch.Tensor:
    wide = []
    for weight in weights:
        w = weight.w_NK
        if isinstance(w, Nf4Weight):
            values = torch.empty(w.shape, dtype=torch.float64)
            dequantise_nf4_plain(w, values)
            w = values
        small = [None if t is None else t.double() for t in (weight.bias_N, weight.b_Nr)]
        wide.append(Weight(w.double(), *small, weight.scale, weight.column))
    out = torch.empty(len(x), sum(w.shape[0] for w in weights), dtype=torch.float64)
    project_plain(x.double(), wide, out, None if p is None else p.double(), None if add is None else add.double())
    return out


def moved(weight: Weight, device: str) -> Weight:
    w = weight.w_NK
    if isinstance(w, Nf4Weight):
        second = w.nested
        if second is not None:
            second = NestedAbsmax(*(t.to(device) for t in (second.code, second.absmax, second.offset)))
        w = Nf4Weight(w.packed.to(device), w.absmax.to(device), w.shape, w.dtype, nested=second)
    else:
        w = w.to(device)
    small = [None if t is None else t.to(device) for t in (weight.bias_N, weight.b_Nr)]
    return Weight(w, *small, weight.scale, weight.column)


def check(
    widths: tuple[int, ...], k: int, rows: int, dtype: torch.dtype, device: str,
    *, packed: bool, double: bool = False, extras: bool = True,
) -> None:  # fmt: skip
    """The kernel's outputs against float64, nothing written beside them; every row what it is among other rows."""
    from whet.engine.kernels import gemv_nf4_triton, gemv_triton

    run = gemv_nf4_triton.project if packed else gemv_triton.project
    weights = weights_of(widths, k, dtype, packed=packed, double=double, extras=extras)
    x, add = random((rows, k), dtype, 1), random((rows, sum(widths)), dtype, 2) if extras else None
    p = random((rows, 8), torch.float32, 3, gap=0) if extras else None
    there = [moved(weight, device) for weight in weights]
    x_there, p_there, add_there = (None if t is None else t.to(device) for t in (x, p, add))
    buffer = torch.full((rows + 2, sum(widths) + 7), float("nan"), dtype=dtype, device=device)
    out = buffer[1:-1, 3 : 3 + sum(widths)]
    run(x_there, there, out, p_there, add_there)
    wanted = exact(weights, x, p, add)
    error = float((out.cpu().double() - wanted).abs().max() / wanted.abs().max())
    assert error <= ERRORS[dtype], (widths, k, rows, dtype, packed, double, extras, error)
    assert int(buffer.isnan().sum()) == buffer.numel() - out.numel()
    if rows > 2:  # the first two rows among two, the same launch size: the same bits
        few = torch.empty_like(out[:2])
        other = [None if t is None else t[:2] for t in (p_there, add_there)]
        if gemv_triton.batch_of(2) == gemv_triton.batch_of(rows):
            run(x_there[:2], there, few, *other)
            assert torch.equal(few, out[:2])


def check_down(rows: int, dtype: torch.dtype, device: str) -> None:
    from whet.engine.kernels import gemv_triton

    x, downs = random((rows, 1100), dtype, 1), [random((r, 1100), torch.float32, r) for r in (3, 16, 1)]
    wanted = torch.empty(rows, 20, dtype=torch.float64)
    down(x.double(), downs, wanted)
    out = torch.full((rows, 20), float("nan"), device=device)
    gemv_triton.down(x.to(device), [a.to(device) for a in downs], out)
    assert float((out.cpu().double() - wanted).abs().max() / wanted.abs().max()) < 2e-6


def check_all(device: str) -> None:
    dtypes = (torch.float32, torch.float16) if device == "cpu" else (torch.float32, torch.float16, torch.bfloat16)
    for (widths, k), rows, dtype in product(DENSE_SHAPES, ROWS, dtypes):
        check(widths, k, rows, dtype, device, packed=False, extras=rows != 2)
    for (widths, k), rows, double in product(NF4_SHAPES, (1, 2, 40), (False, True)):
        for dtype in dtypes[-1:] if device == "cuda" else dtypes[: 1 + double]:
            check(widths, k, rows, dtype, device, packed=True, double=double, extras=rows != 2)
    for rows in (1, 3):
        check_down(rows, torch.float32, device)


if __name__ == "__main__":
    check_all("cpu")
    print("every case agrees")
