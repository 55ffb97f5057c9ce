"""Cases that the NF4 and cross-entropy kernels run against their plain twins: on the GPU, and in Triton's interpreter.

Run as a program, with TRITON_INTERPRET=1, it checks all cases on the CPU; the tests start it in a process of its own,
because Triton reads that variable once, when a kernel is defined.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch

from whet.engine.kernels.cross_entropy import cross_entropy_plain, cross_entropy_slice_plain
from whet.engine.kernels.nf4 import NestedAbsmax, Nf4Weight, dequantise_nf4_plain, table
from whet.engine.quantised import quantise_nf4

HALVES = (torch.bfloat16, torch.float16)
# Rows cut through blocks in three of them; the last two are longer than a program's stretch of a row.
NF4_SHAPES = [(3, 64), (20, 192), (17, 576), (5, 33), (30, 577), (3, 2056), (9, 4160)]
NF4_CASES = list(product(NF4_SHAPES, [False, True], [torch.float32, *HALVES]))
ROW_SHAPES = [(1, 1), (5, 3), (4, 64), (3, 130), (2, 20_011)]  # the last one: three steps of a program, one in part
ROW_CASES = list(product(ROW_SHAPES, [None, 30.0], [None, 0.37, "rows"], [torch.float32, torch.bfloat16]))
# Columns of a slice, and the first of them: within one program, three programs with one in part.
SLICE_CASES = list(product([(1, 0), (64, 128), (4999, 384)], [None, 30.0], [torch.float32, torch.bfloat16]))


def nf4_weight(shape: tuple[int, int], double: bool, dtype: torch.dtype, device: str) -> Nf4Weight:
    generator = torch.Generator().manual_seed(shape[0])
    w_NK = torch.randn(shape, generator=generator) * torch.rand(shape[0], 1, generator=generator)
    weight = quantise_nf4(w_NK.to(dtype), double=double)
    nested = weight.nested
    if nested is not None:
        nested = NestedAbsmax(*(x.to(device) for x in (nested.code, nested.absmax, nested.offset)))
    return Nf4Weight(weight.packed.to(device), weight.absmax.to(device), shape, dtype, nested=nested)


def check_nf4(shape: tuple[int, int], double: bool, dtype: torch.dtype, device: str) -> None:
    """Bit by bit the twin's values, in a view of a wider buffer whose rest stays as it was."""
    from whet.engine.kernels import nf4_triton

    N, K = shape
    weight, at_cpu = (nf4_weight(shape, double, dtype, where) for where in (device, "cpu"))
    values_NK = torch.empty(N, K)
    dequantise_nf4_plain(replace(at_cpu, dtype=torch.float32), values_NK)
    small = nf4_triton.Tiling(words=32, pieces=2, warps=1)
    for out_dtype, tiling in ((torch.float32, nf4_triton.TILING), (torch.bfloat16, small)):
        expected_NK = rounded(rounded(values_NK, dtype, device), out_dtype, device)
        buffer = torch.full((N + 2, K + 7), float("nan"), dtype=out_dtype, device=device)
        nf4_triton.dequantise(weight, table(buffer.device), buffer[1:-1, 3 : 3 + K], tiling)
        assert torch.equal(buffer[1:-1, 3 : 3 + K].cpu(), expected_NK)
        assert int(buffer.isnan().sum()) == buffer.numel() - N * K


def rounded(values: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    """To the nearest, as GPUs round; Triton's interpreter (CPU) cuts the last bits off where the result is bfloat16."""
    if device == "cpu" and dtype == torch.bfloat16:
        values = (values.float().view(torch.int32) & -0x10000).view(torch.float32)
    return values.to(dtype)


def check_rows(
    shape: tuple[int, int], softcap: float | None, scale: float | str | None, dtype: torch.dtype, device: str
) -> None:
    """Loss and gradient of strided rows, one of them without a label; the gap between rows stays as it was."""
    from whet.engine.kernels import cross_entropy_triton

    N, V = shape
    generator = torch.Generator().manual_seed(V)
    logits_NV = (torch.randn(N, V, generator=generator) * 8).to(dtype)
    logits_NV[0, 0] = float("-inf") if V > 2 and softcap is None else 90.0
    targets_N = torch.randint(V // 2, V, (N,), generator=generator)
    if N > 2:
        targets_N[1] = -100
    factor = torch.rand(N, generator=generator) if scale == "rows" else scale
    there = factor.to(device) if isinstance(factor, torch.Tensor) else factor
    buffer = torch.full((N, V + 5), float("nan"), dtype=dtype, device=device)
    buffer[:, :V] = logits_NV.to(device)
    for gradient in (False, True):
        expected = logits_NV.double()
        expected_N = cross_entropy_plain(expected, targets_N, softcap, factor, gradient)
        loss_N = cross_entropy_triton.rows(buffer[:, :V], targets_N.to(device), softcap, there, gradient)
        torch.testing.assert_close(loss_N.cpu().double(), expected_N, rtol=2e-6, atol=2e-5)
        found = buffer[:, :V].cpu().double()
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(found, expected, rtol=max(rounding, 2e-5), atol=2e-6)
    assert bool(buffer[:, V:].isnan().all())
    if N > 2:
        assert loss_N[1] == 0 and (found[1] == 0).all()


def check_slice(columns: tuple[int, int], softcap: float | None, dtype: torch.dtype, device: str) -> None:
    """Log-sum-exp of whole rows, and a slice in place; targets before, within and after it, and none."""
    from whet.engine.kernels import cross_entropy_triton

    (width, first), N = columns, 6
    V = first + width + 37
    generator = torch.Generator().manual_seed(width)
    logits_NV = (torch.randn(N, V, generator=generator) * 8).to(dtype)
    targets_N = torch.tensor([first, first + width - 1, max(first - 1, 0), first + width, -100, first + width // 2])
    exact_NV, sums_N = logits_NV.double(), torch.full((N,), float("nan"), dtype=torch.float64)
    losses_N = cross_entropy_plain(exact_NV, targets_N, softcap, None, False, sums_N)
    lse_N = torch.full((N,), float("nan"), device=device)
    buffer = logits_NV.to(device)
    loss_N = cross_entropy_triton.rows(buffer, targets_N.to(device), softcap, None, False, lse_N)
    torch.testing.assert_close(loss_N.cpu().double(), losses_N, rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(lse_N.cpu().double(), sums_N, rtol=2e-6, atol=2e-5)
    part = slice(first, first + width)
    cross_entropy_slice_plain(exact_NV[:, part], targets_N, sums_N, first, softcap)
    cross_entropy_triton.slice_(buffer[:, part], targets_N.to(device), lse_N, first, softcap)
    found = buffer.cpu()
    torch.testing.assert_close(
        found[:, part].double(), exact_NV[:, part], rtol=max(torch.finfo(dtype).eps, 3e-5), atol=2e-6
    )
    assert torch.equal(found[:, :first], logits_NV[:, :first])
    assert torch.equal(found[:, first + width :], logits_NV[:, first + width :])
    assert (found[4, part] == 0).all()


def check_all(device: str) -> None:
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    for case in NF4_CASES:
        check_nf4(*case, device)
    for row_case in ROW_CASES:
        check_rows(*row_case, device)
    for slice_case in SLICE_CASES:
        check_slice(*slice_case, device)


if __name__ == "__main__":
    check_all("cpu")
    print("every case agrees")
