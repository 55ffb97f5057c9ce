"""Cross-entropy of rows of logits, and its gradient in their place.

With z the logits of a row (capped: z = softcap * tanh(logits / softcap), as Gemma 2 does) and y its target,

    loss = log(sum exp z) - z[y]
    d loss / d logits = (softmax(z) - one-hot(y)) * (1 - (z / softcap)^2 where capped)

Computed in float32 (float64 for float64) and rounded once, whatever dtype the logits have.

N rows, V vocabulary, v columns of a slice of it.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    softcap: float | None = None,
    lse_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of every row; the logits stay as they are. See ``cross_entropy_rows_``.

    Args:
        lse_N: where log(sum exp z) of every row goes, in the dtype of the losses, without gaps; None: nowhere.
    """
    return _rows(logits_NV, targets_N, softcap, None, gradient=False, lse_N=lse_N)


def cross_entropy_slice_(
    logits_Nv: torch.Tensor,
    targets_N: torch.Tensor,
    lse_N: torch.Tensor,
    first: int,
    *,
    softcap: float | None = None,
) -> None:
    """A slice of the vocabulary becomes its part of d loss / d logits, in place.

    Args:
        logits_Nv: columns first..first + v of the logits; rows may be strided, values within a row not.
        targets_N: int64, among all columns; negative where a row has no label: its gradient is zero.
        lse_N: from ``cross_entropy_rows`` on all columns.
        softcap: as there.

    Raises:
        ValueError: shapes that do not fit.
    """
    N, _ = logits_Nv.shape
    if targets_N.shape != (N,) or lse_N.shape != (N,):
        sizes = [tuple(x.shape) for x in (logits_Nv, targets_N, lse_N)]
        raise ValueError(f"cross entropy: logits, targets and log-sum-exp are {sizes}; needed: (N, v), (N,) and (N,)")
    if uses_triton(logits_Nv) and logits_Nv.stride(1) == 1:
        from whet.engine.kernels import cross_entropy_triton

        cross_entropy_triton.slice_(logits_Nv, targets_N, lse_N, first, softcap)
    else:
        cross_entropy_slice_plain(logits_Nv, targets_N, lse_N, first, softcap)


def _rows(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    softcap: float | None,
    scale: float | torch.Tensor | None,
    gradient: bool,
    lse_N: torch.Tensor | None = None,
) -> torch.Tensor:
    N, _ = logits_NV.shape
    given = [x for x in (logits_NV, targets_N, scale, lse_N) if isinstance(x, torch.Tensor)]
    if any(x.shape != (N,) for x in given[1:]):
        sizes = [tuple(x.shape) for x in given]
        raise ValueError(f"cross entropy: logits, targets and what is of each row are {sizes}; needed: (N, V) and (N,)")
    if uses_triton(logits_NV) and logits_NV.stride(1) == 1:
        from whet.engine.kernels import cross_entropy_triton

        return cross_entropy_triton.rows(logits_NV, targets_N, softcap, scale, gradient, lse_N)
    return cross_entropy_plain(logits_NV, targets_N, softcap, scale, gradient, lse_N)


def cross_entropy_plain(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    softcap: float | None = None,
    scale: float | torch.Tensor | None = None,
    gradient: bool = True,
    lse_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """The plain twin of the kernel; the CPU path."""
    loss_N = torch.empty(len(logits_NV), dtype=wide(logits_NV.dtype), device=logits_NV.device)
    for part in _parts(logits_NV):
        factor = scale[part] if isinstance(scale, torch.Tensor) else scale
        lse = None if lse_N is None else lse_N[part]
        loss_N[part] = _some_rows(logits_NV[part], targets_N[part], softcap, factor, gradient, lse)
    return loss_N


def cross_entropy_slice_plain(
    logits_Nv: torch.Tensor, targets_N: torch.Tensor, lse_N: torch.Tensor, first: int, softcap: float | None = None
) -> None:
    """The plain twin of the kernel of a slice; the CPU path."""
    width = logits_Nv.shape[1]
    for part in _parts(logits_Nv):
        z_Nv = logits_Nv[part].to(wide(logits_Nv.dtype))
        if softcap is not None:
            tanh_Nv = torch.tanh(z_Nv / softcap)
            z_Nv = tanh_Nv * softcap
        z_Nv = (z_Nv - lse_N[part, None]).exp_()
        at_N1 = targets_N[part, None] - first
        inside_N1 = (at_N1 >= 0) & (at_N1 < width)
        z_Nv.scatter_add_(1, at_N1.clamp(0, width - 1), inside_N1.to(z_Nv.dtype).neg_())
        if softcap is not None:
            z_Nv.mul_(1 - tanh_Nv.square_())
        logits_Nv[part] = z_Nv.masked_fill_(targets_N[part, None] < 0, 0)


def _parts(logits_NV: torch.Tensor) -> Iterator[slice]:
    """Rows that the plain forms take at once."""
    N, V = logits_NV.shape
    step = max(1, N if logits_NV.is_cuda else _CHUNK // V)
    for start in range(0, N, step):
        yield slice(start, start + step)


def _some_rows(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    softcap: float | None,
    scale: float | torch.Tensor | None,
    gradient: bool,
    lse_N: torch.Tensor | None,
) -> torch.Tensor:
    z_NV = logits_NV.to(wide(logits_NV.dtype))
    if softcap is not None:
        tanh_NV = torch.tanh(z_NV / softcap)
        z_NV = tanh_NV * softcap
    labelled_N = targets_N >= 0
    at_N1 = targets_N.clamp_min(0)[:, None]
    logp_NV = z_NV.log_softmax(-1)
    if lse_N is not None:  # z - log p is the same in every column; at the largest no value is infinite
        lse_N.copy_(z_NV.amax(-1) - logp_NV.amax(-1))
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
