"""Products with few rows: the projections of a decode step, all weights that read one input in one launch.

    y = x Wᵀ + bias + scale * p Bᵀ + add,    p = x Aᵀ  (LoRA, arXiv 2106.09685, equation 3)

A weight is dense or NF4 (``nf4.py``), and is read once, where it lies; nothing is dequantised to memory. The plain twin
here is the specification and the CPU path.

M rows, K inputs, N outputs, R columns of p: the sum of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from whet.console import notice
from whet.engine.kernels.dispatch import uses_triton, wide
from whet.engine.kernels.nf4 import BLOCK, Nf4Weight, dequantise_nf4

MOST_ROWS = 64  # of a launch; more rows are a product for cuBLAS


class Weight(NamedTuple):
    """One linear layer of a launch.

    ``w_NK``: rows may be strided. ``b_Nr``, ``scale``, ``column``: the adapter's B, its factor, and where its r columns
    begin in p; None without an adapter.
    """

    w_NK: torch.Tensor | Nf4Weight
    bias_N: torch.Tensor | None = None
    b_Nr: torch.Tensor | None = None
    scale: float = 1.0
    column: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        n, k = self.w_NK.shape
        return n, k


def project(
    x_MK: torch.Tensor,
    weights: Sequence[Weight],
    out_MN: torch.Tensor,
    p_MR: torch.Tensor | None = None,
    add_MN: torch.Tensor | None = None,
) -> torch.Tensor:
    """All ``weights`` applied to x; their outputs side by side in ``out_MN``, which is returned.

    Args:
        x_MK: rows may be strided, values of a row not.
        weights: one to three, all dense or all NF4.
        out_MN: N is the sum of theirs; float32 or x's dtype.
        p_MR: float32, contiguous; needed where a weight has an adapter.
        add_MN: added before rounding; may be ``out_MN`` itself.

    Raises:
        ValueError: shapes that do not match.
    """
    _check(x_MK, weights, out_MN)
    kernel = uses_triton(x_MK) and fits(weights, x_MK.dtype) and len(x_MK) <= MOST_ROWS
    if not kernel or not _by_kernel(x_MK, weights, out_MN, p_MR, add_MN):
        project_plain(x_MK, weights, out_MN, p_MR, add_MN)
    return out_MN


_failed: set[tuple[bool, int]] = set()  # kernels that do not run on this machine: for NF4, for so many rows


def _by_kernel(
    x_MK: torch.Tensor,
    weights: Sequence[Weight],
    out_MN: torch.Tensor,
    p_MR: torch.Tensor | None,
    add_MN: torch.Tensor | None,
) -> bool:
    """Whether the kernel for this did it. One that does not run is left out from then on, which is said once."""
    from whet.engine.kernels import gemv_nf4_triton, gemv_triton

    packed = isinstance(weights[0].w_NK, Nf4Weight)
    which = (packed, gemv_triton.batch_of(len(x_MK)))
    if which in _failed:
        return False
    run = gemv_nf4_triton.project if packed else gemv_triton.project
    try:
        run(x_MK, weights, out_MN, p_MR, add_MN)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever Triton's compiler or the driver say
        _failed.add(which)
        first_line = str(error).strip().partition("\n")[0]
        kind = "4-bit" if packed else "16-bit"
        notice(f"decoding is slower here: the {kind} kernel for {len(x_MK)} rows does not run ({first_line})")
        return False
    return True


def fits(weights: Sequence[Weight], dtype: torch.dtype) -> bool:
    """Whether the kernels take these weights: dense ones in x's dtype, their rows without gaps between values; of NF4,
    rows of whole blocks of 64 that begin at whole words, all quantised in one way."""
    packed = [weight.w_NK for weight in weights if isinstance(weight.w_NK, Nf4Weight)]
    if packed:
        whole = all(w.block == BLOCK and w.shape[1] % BLOCK == 0 and w.packed.data_ptr() % 4 == 0 for w in packed)
        return whole and len({w.nested.block if w.nested else 0 for w in packed}) == 1
    dense = [weight.w_NK for weight in weights if isinstance(weight.w_NK, torch.Tensor)]
    return all(w.dtype == dtype and w.stride(1) == 1 for w in dense)


def project_plain(
    x_MK: torch.Tensor,
    weights: Sequence[Weight],
    out_MN: torch.Tensor,
    p_MR: torch.Tensor | None = None,
    add_MN: torch.Tensor | None = None,
) -> None:
    """The plain twin; on a CPU its sums are those of float32 even for short dtypes."""
    start = 0
    for weight in weights:
        n, _ = weight.shape
        columns = slice(start, start + n)
        y_MN, w_KN = out_MN[:, columns], dense(weight.w_NK, x_MK.dtype).t()
        if y_MN.dtype == x_MK.dtype and add_MN is None:
            torch.mm(x_MK, w_KN, out=y_MN)
        else:
            y_MN = x_MK @ w_KN
        if weight.b_Nr is not None:
            assert p_MR is not None
            p_Mr = p_MR[:, weight.column : weight.column + weight.b_Nr.shape[1]]
            y_MN = torch.addmm(y_MN.to(p_Mr.dtype), p_Mr, weight.b_Nr.to(p_Mr.dtype).t(), alpha=weight.scale)
        if weight.bias_N is not None:
            y_MN = y_MN + weight.bias_N
        if add_MN is not None:
            y_MN = y_MN + add_MN[:, columns]
        if y_MN.data_ptr() != out_MN[:, columns].data_ptr():
            out_MN[:, columns] = y_MN
        start += n


def dense(w_NK: torch.Tensor | Nf4Weight, dtype: torch.dtype) -> torch.Tensor:
    """The weight in a dtype; NF4 into new memory."""
    if isinstance(w_NK, Nf4Weight):
        out_NK = torch.empty(w_NK.shape, dtype=dtype, device=w_NK.packed.device)
        dequantise_nf4(w_NK, out_NK)
        return out_NK
    return w_NK.to(dtype)


def down(x_MK: torch.Tensor, downs: Sequence[torch.Tensor], out_MR: torch.Tensor) -> torch.Tensor:
    """p = x Aᵀ of up to three adapters, side by side, float32 (float64 for float64).

    Args:
        downs: A (r, K) of each, in any dtype.
        out_MR: R is the sum of their ranks.
    """
    if uses_triton(x_MK) and len(x_MK) <= MOST_ROWS:
        from whet.engine.kernels import gemv_triton

        gemv_triton.down(x_MK, downs, out_MR)
        return out_MR
    start, dtype = 0, wide(x_MK.dtype)
    for a_rK in downs:
        out_MR[:, start : start + len(a_rK)] = x_MK.to(dtype) @ a_rK.to(dtype).t()
        start += len(a_rK)
    return out_MR


def _check(x_MK: torch.Tensor, weights: Sequence[Weight], out_MN: torch.Tensor) -> None:
    outputs, inputs = sum(weight.shape[0] for weight in weights), {weight.shape[1] for weight in weights}
    if inputs != {x_MK.shape[1]} or out_MN.shape != (x_MK.shape[0], outputs):
        raise ValueError(
            f"x is {tuple(x_MK.shape)} and out {tuple(out_MN.shape)}; "
            f"the weights make {outputs} outputs of {sorted(inputs)} inputs"
        )
    if x_MK.stride(1) != 1 or out_MN.stride(1) != 1:
        raise ValueError("values of a row of x and out have to lie side by side")
