"""RMSNorm, forward and backward, with a frozen or a trained weight.

y = x * rstd * (weight + offset), rstd = 1 / sqrt(mean(x^2) + eps)            (arXiv:1910.07467, equation 4)

Rounding follows transformers: Llama's kind (offset 0) rounds x * rstd to the dtype of x before it multiplies by the
weight; Gemma's kind (offset 1) computes everything in float32 and rounds once.

C channels. The plain twins here are the specification and the CPU path; ``norm_triton`` holds the same for CUDA.
"""

from __future__ import annotations

import torch

from whet.engine.kernels.dispatch import need_rows, row_blocks, uses_triton, wide


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float = 0.0, out: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise the last dimension.

    Args:
        x: (..., C), any strides: (T, C), (T, heads, C); the last dimension contiguous, and with more than three the
            first ones mergeable by ``view``.
        weight: (C,), any floating dtype.
        eps: added to the mean of squares.
        offset: added to the weight: 0 (Llama, Mistral, Qwen, Phi) or 1 (Gemma).
        out: where y goes, of x's shape; a strided view, or x itself. None: a new tensor of x's dtype.

    Returns:
        y: ``out``, or a new (..., C) tensor.
        rstd: (...,), float32 (float64 for float64 input); ``rms_norm_backward`` needs it.

    Raises:
        ValueError: the last dimension of x or out has gaps.
    """
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    rstd = x.new_empty(x.shape[:-1], dtype=wide(x.dtype))
    if not x.numel():
        return out, rstd
    need_rows(x, out)
    if uses_triton(x):
        from whet.engine.kernels import norm_triton

        norm_triton.forward(three(x), weight, eps, offset, three(out), rstd)
    else:
        _forward(three(x), weight, eps, offset, three(out), rstd)
    return out, rstd


def rms_norm_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    offset: float = 0.0,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    dweight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gradient of the input: dx = rstd * (g - n * mean(g * n)) + residual, g = dy * (weight + offset), n = x * rstd.

    The sum is made in float32 and rounded once. The weight's gradient is the sum of dy * n over all rows, with n as the
    forward multiplied it by the weight: rounded to x's dtype where offset is 0.

    Args:
        dy, x: (..., C), as in ``rms_norm``.
        weight, offset: as in ``rms_norm``.
        rstd: (...,), contiguous, from ``rms_norm``.
        residual: (..., C), added to dx in the same pass: the gradient that went past the norm.
        out: where dx goes; may be ``dy`` or ``residual`` itself. None: a new tensor of dy's dtype.
        dweight: (C,), contiguous, float32 (float64 for float64 input): the weight's gradient is added to it, the same
            bits each time on one device. None: the weight is frozen.

    Returns:
        dx (..., C).

    Raises:
        ValueError: the last dimension of a tensor has gaps, or dweight has another shape or dtype.
    """
    out = torch.empty_like(dy, memory_format=torch.contiguous_format) if out is None else out
    if dweight is not None:
        _need_sum(dweight, x)
    if not x.numel():
        return out
    extra = None if residual is None else three(residual)
    need_rows(dy, x, out, *([] if residual is None else [residual]))
    if uses_triton(x):
        from whet.engine.kernels import norm_triton

        norm_triton.backward(three(dy), three(x), weight, rstd, offset, extra, three(out), dweight)
    else:
        _backward(three(dy), three(x), weight, rstd, offset, extra, three(out), dweight)
    return out


def three(x: torch.Tensor) -> torch.Tensor:
    """A view (outer, inner, C) of (..., C): rows of tokens, or heads of tokens inside a wider buffer."""
    if x.dim() == 3:
        return x
    return x.view(-1, 1, x.shape[-1]) if x.dim() < 3 else x.view(-1, *x.shape[-2:])


def _need_sum(dweight: torch.Tensor, x: torch.Tensor) -> None:
    expected, dtype = x.shape[-1:], wide(x.dtype)
    if dweight.shape != expected or dweight.dtype != dtype or not dweight.is_contiguous():
        raise ValueError(
            f"dweight has shape {tuple(dweight.shape)}, dtype {dweight.dtype} and strides {dweight.stride()}: "
            f"the gradient is summed in a contiguous {tuple(expected)} of {dtype}"
        )


def _forward(
    x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float, out: torch.Tensor, rstd: torch.Tensor
) -> None:
    dtype = wide(x.dtype)
    scale = weight.to(dtype) + offset
    rstd = rstd.view(x.shape[0], x.shape[1], 1)
    for part in row_blocks(x.shape[0], x.shape[1] * x.shape[2]):
        rows = x[part].to(dtype)
        rstd[part] = torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)
        normed = rows * rstd[part]
        if not offset:
            normed = normed.to(x.dtype).to(dtype)
        out[part] = normed.mul_(scale)


def _backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    offset: float,
    residual: torch.Tensor | None,
    out: torch.Tensor,
    dweight: torch.Tensor | None = None,
) -> None:
    dtype = wide(x.dtype)
    scale = weight.to(dtype) + offset
    rstd = rstd.view(x.shape[0], x.shape[1], 1)
    for part in row_blocks(x.shape[0], x.shape[1] * x.shape[2]):
        normed = x[part].to(dtype) * rstd[part]
        if dweight is not None:
            multiplied = normed if offset else normed.to(x.dtype).to(dtype)
            dweight += (dy[part].to(dtype) * multiplied).sum((0, 1))
        grad = dy[part].to(dtype) * scale
        grad -= normed.mul_((grad * normed).mean(-1, keepdim=True))
        grad *= rstd[part]
        out[part] = grad if residual is None else grad.add_(residual[part])
