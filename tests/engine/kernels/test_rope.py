"""RoPE's plain twin against transformers' apply_rotary_pos_emb, and its inverse against autograd."""

from __future__ import annotations

import pytest
import torch
from kernel_tensors import LOW, error, filled, rotary

from whet.engine.kernels import dispatch
from whet.engine.kernels.rope import rope_

T, N, E = 13, 3, 16


def theirs(t_TNE: torch.Tensor, cos_TC: torch.Tensor, sin_TC: torch.Tensor) -> torch.Tensor:
    """Phi-3's form, which leaves the channels beyond the rotary dimension alone."""
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    cos, sin = (torch.cat([table, table], -1)[None] for table in (cos_TC, sin_TC))
    q, _ = apply_rotary_pos_emb(t_TNE[None], t_TNE[None], cos, sin, unsqueeze_dim=2)
    return q[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("pairs", [E // 2, 6, 1])
def test_equals_transformers(pairs: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BLOCK_ELEMENTS", 4 * N * E)
    t_TNE, tables = filled((T, N, E), dtype, 1), rotary(T, pairs, dtype)
    expected = theirs(t_TNE, *tables)
    rope_(t_TNE, *tables)
    assert torch.equal(t_TNE, expected)


def test_equals_llamas_form() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = filled((T, N, E), torch.float32, 2), filled((T, 2, E), torch.float32, 3)
    cos, sin = rotary(T, E // 2, torch.float32)
    wide = (torch.cat([cos, cos], -1)[None], torch.cat([sin, sin], -1)[None])
    expected = apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], *wide)
    for mine, other in zip((q, k), expected, strict=True):
        rope_(mine, cos, sin)
        assert torch.equal(mine.transpose(0, 1), other[0])


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_is_no_worse_than_transformers(dtype: torch.dtype) -> None:
    t_TNE, tables = filled((T, N, E), dtype, 4), rotary(T, 6, dtype)
    exact = theirs(t_TNE.double(), *(table.double() for table in tables))
    other = theirs(t_TNE, *tables)
    rope_(t_TNE, *tables)
    assert error(t_TNE, exact) <= error(other, exact)


@pytest.mark.parametrize("pairs", [E // 2, 6])
def test_inverse_is_the_gradient(pairs: int) -> None:
    """With scaled tables too (YaRN): the transposed map, not the inverse one."""
    cos, sin = (table * 1.3 for table in rotary(T, pairs, torch.float64))
    t_TNE, gradient = filled((T, N, E), torch.float64, 5).requires_grad_(), filled((T, N, E), torch.float64, 6)
    (expected,) = torch.autograd.grad(theirs(t_TNE, cos, sin), t_TNE, gradient)
    rope_(gradient, cos, sin, inverse=True)
    assert error(gradient, expected) <= 1e-15


def test_rotates_views_where_they_lie() -> None:
    """q and k of a [q | k | v] buffer in one call, tables broadcast from one row."""
    buffer = filled((T, 6, E), torch.bfloat16, 7)
    before = buffer.clone()
    cos, sin = (table[3:4].expand(T, -1) for table in rotary(T, E // 2, torch.float32))
    rope_(buffer[:, :4], cos, sin)
    for heads in (slice(0, 3), slice(3, 4)):
        part = before[:, heads].clone()
        rope_(part, cos.contiguous(), sin.contiguous())
        assert torch.equal(buffer[:, heads], part)
    assert torch.equal(buffer[:, 4:], before[:, 4:])


def test_a_token_does_not_depend_on_the_others() -> None:
    t_TNE, (cos, sin) = filled((T, N, E), torch.bfloat16, 8), rotary(T, E // 2, torch.bfloat16)
    part = t_TNE[4:6].clone()
    rope_(t_TNE, cos, sin)
    rope_(part, cos[4:6], sin[4:6])
    assert torch.equal(part, t_TNE[4:6])


def test_no_tokens() -> None:
    rope_(torch.empty(0, N, E), *(table[:0] for table in rotary(T, E // 2, torch.float32)))


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        rope_(torch.ones(T, N, 8), *rotary(T, 5, torch.float32))
