"""The gradients of a trained linear head and of the hidden states that it reads.

The logits are made again, by slices of the vocabulary with all rows at once, so that a slice of the weight's gradient
is one product: summed in float32 inside of it and rounded once. By chunks of rows, the whole gradient would be rounded
and added once for each chunk, or be there in float32. With p = d loss / d logits of a slice, and g what comes in:

    dW_vD = pᵀ (g h)      db_v = Σ g p      dh_ND = g Σ over slices of p W_vD

N labelled rows, D hidden size, V vocabulary, v columns of a slice of it.
"""

from __future__ import annotations

import torch

from whet.engine.kernels.cross_entropy import cross_entropy_slice_
from whet.engine.weights import wide_mm

ALIGNMENT = 128  # columns: a tile of a product; slices begin there, and rows of logits are as far apart
BIAS_PARTS = 8  # of the rows, one of them in float32 at a time


def product_dtype(weight: torch.Tensor) -> torch.dtype:
    """That of the products with a weight: its own, or what autocast makes of it."""
    kind = weight.device.type
    if weight.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def head_gradients(
    g_N: torch.Tensor,
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None,
    lse_N: torch.Tensor,
    *,
    wanted: tuple[bool, bool, bool],
    softcap: float | None,
    chunk_rows: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of hidden states, weight and bias, each in its own dtype; None where it is not wanted.

    Args:
        g_N: the gradient of every row's loss. It differs from row to row (preferences), so g h is what takes it in, and
            is rounded to ``dtype``; p is not scaled.
        lse_N: log-sum-exp of each row's logits, from the forward.
        chunk_rows: as many logits exist at once as this many rows have.
        dtype: of the products.
    """
    x_ND = hidden_ND.to(dtype)
    gx_ND = torch.mul(x_ND, g_N[:, None], out=torch.empty_like(x_ND)) if wanted[1] else None
    sum_ND: torch.Tensor | None = None
    dweight_VD = torch.empty_like(weight_VD) if wanted[1] else None
    dbias_V = None if bias_V is None or not wanted[2] else torch.empty_like(bias_V)
    width, V = slice_width(len(x_ND), len(weight_VD), chunk_rows), len(weight_VD)
    buffer = torch.empty(len(x_ND), width, dtype=dtype, device=x_ND.device)
    for start in range(0, V, width):
        part = slice(start, min(V, start + width))
        w_vD = weight_VD[part].to(dtype)
        p_Nv = _logits(x_ND, w_vD, None if bias_V is None else bias_V[part].to(dtype), buffer[:, : len(w_vD)])
        cross_entropy_slice_(p_Nv, targets_N, lse_N, start, softcap=softcap)
        if dweight_VD is not None and gx_ND is not None:
            _mm_into(p_Nv.t(), gx_ND, dweight_VD[part])
        if dbias_V is not None:
            dbias_V[part] = _weighted_sum(p_Nv, g_N)
        if wanted[0]:
            more_ND = wide_mm(p_Nv, w_vD)
            sum_ND = more_ND if sum_ND is None else sum_ND.add_(more_ND)
            del more_ND  # before the next slice's is made
    dhidden_ND = None if sum_ND is None else sum_ND.mul_(g_N[:, None]).to(hidden_ND.dtype)
    return dhidden_ND, dweight_VD, dbias_V


def slice_width(rows: int, vocab: int, chunk_rows: int) -> int:
    """Columns of a slice: whole multiples of ALIGNMENT, slices of like width, with no more logits than ``chunk_rows``
    rows have where more than one slice can see to that."""
    slices = 1
    if rows > chunk_rows:
        most = max(ALIGNMENT, chunk_rows * vocab // rows // ALIGNMENT * ALIGNMENT)
        slices = -(-vocab // most)
    return -(-vocab // (slices * ALIGNMENT)) * ALIGNMENT


def _logits(x_ND: torch.Tensor, w_vD: torch.Tensor, bias_v: torch.Tensor | None, out_Nv: torch.Tensor) -> torch.Tensor:
    if bias_v is None:
        return torch.mm(x_ND, w_vD.t(), out=out_Nv)
    return torch.addmm(bias_v, x_ND, w_vD.t(), out=out_Nv)


def _mm_into(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """a · b, rounded once, to the dtype of ``out`` (under autocast that of the weight, not of the product)."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(wide_mm(a, b))


def _weighted_sum(p_Nv: torch.Tensor, g_N: torch.Tensor) -> torch.Tensor:
    """Σ over rows of g p, in the dtype of g (float32, float64), some rows at a time."""
    total_v = g_N.new_zeros(p_Nv.shape[1])
    step = max(1, -(-len(g_N) // BIAS_PARTS))
    for start in range(0, len(g_N), step):
        part = slice(start, start + step)
        total_v += g_N[part] @ p_Nv[part].to(g_N.dtype)
    return total_v
