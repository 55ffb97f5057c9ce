"""Copies between rows of different strides: a matrix into the first columns of a wider buffer, or out of one.

T rows, N columns.
"""

from __future__ import annotations

import torch

from whet.engine.kernels.dispatch import need_rows, uses_triton, wide


def copy_rows(src_TN: torch.Tensor, dst_TN: torch.Tensor) -> None:
    """dst = src, cast to dst's dtype.

    On the GPU ``copy_`` into a strided buffer reaches 1,740 GB/s of an H200, this 3,860 (a plain copy: 4,260).

    Args:
        src_TN, dst_TN: any stride over rows, the last dimension contiguous; they must not overlap.

    Raises:
        ValueError: shapes differ, or a last dimension has gaps.
    """
    if src_TN.shape != dst_TN.shape:
        raise ValueError(f"rows of shape {tuple(src_TN.shape)} do not fit into {tuple(dst_TN.shape)}")
    need_rows(src_TN, dst_TN)
    if not src_TN.numel():
        return
    if uses_triton(src_TN) and uses_triton(dst_TN):
        from whet.engine.kernels import copy_triton

        copy_triton.copy(src_TN, dst_TN)
    else:
        dst_TN.copy_(src_TN)


def sum_rows(src_TN: torch.Tensor, index_JS: torch.Tensor, dst_SN: torch.Tensor) -> None:
    """dst[s] = the sum over j of src[index[j, s]], added up in float32 and rounded once; a negative index adds nothing.

    With J = 1 this is a gather, with zero rows where the index is negative.

    Args:
        src_TN, dst_SN: as of ``copy_rows``, of one dtype.
        index_JS: int64, contiguous.

    Raises:
        ValueError: shapes or dtypes do not fit, or a last dimension has gaps.
    """
    if (index_JS.shape[1], src_TN.shape[1]) != tuple(dst_SN.shape) or src_TN.dtype != dst_SN.dtype:
        shapes = f"{tuple(src_TN.shape)} by {tuple(index_JS.shape)} into {tuple(dst_SN.shape)}"
        raise ValueError(f"rows do not fit: {shapes}, {src_TN.dtype} and {dst_SN.dtype}")
    need_rows(src_TN, dst_SN)
    if not dst_SN.numel():
        return
    if uses_triton(src_TN) and uses_triton(dst_SN):
        from whet.engine.kernels import copy_triton

        copy_triton.sum_rows(src_TN, index_JS, dst_SN)
    else:
        _sum_rows(src_TN, index_JS, dst_SN)


def _sum_rows(src_TN: torch.Tensor, index_JS: torch.Tensor, dst_SN: torch.Tensor) -> None:
    parts = (src_TN.index_select(0, index_S.clamp(min=0)) for index_S in index_JS)
    parts = (part.masked_fill_(index_S[:, None] < 0, 0) for part, index_S in zip(parts, index_JS, strict=True))
    if len(index_JS) == 1:
        dst_SN.copy_(next(parts))
        return
    dst_SN.copy_(sum((part.to(wide(part.dtype)) for part in parts), torch.zeros((), dtype=wide(src_TN.dtype))))
