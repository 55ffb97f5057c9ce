"""Attention of short documents on the CPU: documents of like length as one batched product.

aten's flash attention works in blocks and calls a small product for each; for documents below about a hundred tokens
that is most of its time. Here a document's scores are small enough to be made whole. Scores and softmax in float32;
bfloat16 operands stay as they are in the products whose result is rounded to bfloat16 anyway.

M documents times key/value heads, g query heads to each, P rows of a document, S = g P, E head size.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from whet.engine.kernels.dispatch import wide


def forward(
    q_MgPE: torch.Tensor, k_M1PE: torch.Tensor, v_M1PE: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """o (M, g, P, E) in the dtype of q, and the logarithm of each row's sum of exponentials (M, g, P)."""
    q_MSE, k_MPE, v_MPE = (t.flatten(1, 2) for t in (q_MgPE, k_M1PE, v_M1PE))
    s_MSP = _scores(q_MSE, k_MPE, scale)
    most_MS1 = s_MSP.amax(-1, keepdim=True)
    sum_MS1 = s_MSP.sub_(most_MS1).exp_().sum(-1, keepdim=True)
    o_MSE = torch.bmm(s_MSP.div_(sum_MS1).to(v_MPE.dtype), v_MPE)
    lse_MS1 = most_MS1.add_(sum_MS1.log_())
    return o_MSE.view(q_MgPE.shape), lse_MS1.view(q_MgPE.shape[:3])


def backward(
    do_MgPE: torch.Tensor,
    q_MgPE: torch.Tensor,
    k_M1PE: torch.Tensor,
    v_M1PE: torch.Tensor,
    o_MgPE: torch.Tensor,
    lse_MgP: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """dq (M, g, P, E), dk and dv (M, 1, P, E), in the dtype of q."""
    q_MSE, k_MPE, v_MPE, do_MSE, o_MSE = (t.flatten(1, 2) for t in (q_MgPE, k_M1PE, v_M1PE, do_MgPE, o_MgPE))
    dtype = q_MSE.dtype
    do_wide, v_wide = do_MSE.to(wide(dtype)), v_MPE.to(wide(dtype))
    p_MSP = _scores(q_MSE, k_MPE, scale).sub_(lse_MgP.flatten(1, 2)[..., None]).exp_()
    dv_MPE = torch.bmm(p_MSP.to(dtype).transpose(1, 2), do_MSE)
    delta_MS1 = (do_wide * o_MSE).sum(-1, keepdim=True)
    ds_MSP = torch.baddbmm(delta_MS1, do_wide, v_wide.transpose(1, 2), beta=-scale, alpha=scale).mul_(p_MSP).to(dtype)
    dq_MSE = torch.bmm(ds_MSP, k_MPE)
    dk_MPE = torch.bmm(ds_MSP.transpose(1, 2), q_MSE)
    return dq_MSE.view(q_MgPE.shape), dk_MPE[:, None], dv_MPE[:, None]


def _scores(q_MSE: torch.Tensor, k_MPE: torch.Tensor, scale: float) -> torch.Tensor:
    """Scaled scores in float32 or float64, minus infinity where a row does not look."""
    dtype = wide(q_MSE.dtype)
    later_SP = _later(k_MPE.shape[1], q_MSE.shape[1] // k_MPE.shape[1], dtype)
    return torch.baddbmm(later_SP, q_MSE.to(dtype), k_MPE.to(dtype).transpose(1, 2), alpha=scale)


@lru_cache(maxsize=64)
def _later(size: int, each: int, dtype: torch.dtype) -> torch.Tensor:
    """(g P, P): zero up to a row's own place, minus infinity after it."""
    return torch.full((size, size), float("-inf"), dtype=dtype).triu_(1).repeat(each, 1)
