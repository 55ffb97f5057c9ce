"""Cross-entropy of rows of logits, and its gradient in their place.

With z the logits of a row (capped: z = softcap * tanh(logits / softcap), as Gemma 2 does) and y its target,

    loss = log(sum exp z) - z[y]
    d loss / d logits = (softmax(z) - one-hot(y)) * (1 - (z / softcap)^2 where capped)

Computed in float32 (float64 for float64) and rounded once, whatever dtype the logits have.
"""

from __future__ import annotations

import torch

from whet.engine.kernels.dispatch import uses_triton, wide

_CHUNK = 1 << 18  # logits the plain form takes at once on a CPU: its float32 copies stay in the cache


def cross_entropy_rows_(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    softcap: float | None = None,
    scale: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of every row; ``logits_NV`` becomes scale * d loss / d logits.

    Args:
        logits_NV: rows may be strided, values within a row not.
        targets_N: int64, below V; negative where a row has no label: its loss and gradient are zero.
        softcap: the cap of the logits; None: none.
        scale: a factor of the gradient, one number or one for each row (N,); the loss is not scaled.

    Returns:
        loss_N in nats, float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes that do not fit.
    """
    return _rows(logits_NV, targets_N, softcap, scale, gradient=True)


def cross_entropy_rows(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, *, softcap: float | None = None
) -> torch.Tensor:
    """The loss of every row; the logits stay as they are. See ``cross_entropy_rows_``."""
    return _rows(logits_NV, targets_N, softcap, None, gradient=False)


def _rows(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    softcap: float | None,
    scale: float | torch.Tensor | None,
    gradient: bool,
) -> torch.Tensor:
    N, _ = logits_NV.shape
    if targets_N.shape != (N,) or (isinstance(scale, torch.Tensor) and scale.shape != (N,)):
        sizes = [tuple(x.shape) for x in (logits_NV, targets_N, scale) if isinstance(x, torch.Tensor)]
        raise ValueError(f"cross entropy: logits, targets and scale are {sizes}; needed: (N, V), (N,) and (N,)")
    if uses_triton(logits_NV) and logits_NV.stride(1) == 1:
        from whet.engine.kernels import cross_entropy_triton

        return cross_entropy_triton.rows(logits_NV, targets_N, softcap, scale, gradient)
    return cross_entropy_plain(logits_NV, targets_N, softcap, scale, gradient)


def cross_entropy_plain(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    softcap: float | None = None,
    scale: float | torch.Tensor | None = None,
    gradient: bool = True,
) -> torch.Tensor:
    """The plain twin of the kernel; the CPU path."""
    N, V = logits_NV.shape
    loss_N = torch.empty(N, dtype=wide(logits_NV.dtype), device=logits_NV.device)
    step = N if logits_NV.is_cuda else max(1, _CHUNK // V)
    for start in range(0, N, max(1, step)):
        part = slice(start, start + step)
        factor = scale[part] if isinstance(scale, torch.Tensor) else scale
        loss_N[part] = _some_rows(logits_NV[part], targets_N[part], softcap, factor, gradient)
    return loss_N


def _some_rows(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    softcap: float | None,
    scale: float | torch.Tensor | None,
    gradient: bool,
) -> torch.Tensor:
    z_NV = logits_NV.to(wide(logits_NV.dtype))
    if softcap is not None:
        tanh_NV = torch.tanh(z_NV / softcap)
        z_NV = tanh_NV * softcap
    labelled_N = targets_N >= 0
    at_N1 = targets_N.clamp_min(0)[:, None]
    logp_NV = z_NV.log_softmax(-1)
    loss_N = logp_NV.gather(1, at_N1)[:, 0].neg_().masked_fill_(~labelled_N, 0)
    if gradient:
        z_NV = logp_NV.exp_()
        z_NV.scatter_add_(1, at_N1, z_NV.new_full(at_N1.shape, -1))
        if softcap is not None:
            z_NV.mul_(1 - tanh_NV.square_())
        if scale is not None:
            z_NV.mul_(scale[:, None] if isinstance(scale, torch.Tensor) else scale)
        logits_NV.copy_(z_NV.masked_fill_(~labelled_N[:, None], 0))
    return loss_N
