"""The NF4 and cross-entropy kernels, and the losses made of them, on a GPU."""

from __future__ import annotations

import pytest
import torch
from loss_kernel_cases import NF4_CASES, ROW_CASES, SLICE_CASES, check_nf4, check_rows, check_slice

from whet.engine.kernels.available import triton_problem
from whet.engine.kernels.cross_entropy import (
    cross_entropy_plain,
    cross_entropy_rows_,
    cross_entropy_slice_,
    cross_entropy_slice_plain,
)
from whet.engine.kernels.nf4 import Nf4Weight, dequantise_nf4, dequantise_nf4_plain
from whet.engine.loss import head_loss, token_logprobs
from whet.engine.quantised import quantise_nf4, read_nf4

pytestmark = pytest.mark.gpu


def test_triton_runs_here() -> None:
    assert triton_problem() == ""


@pytest.mark.parametrize("case", NF4_CASES, ids=str)
def test_nf4(case) -> None:
    check_nf4(*case, "cuda")


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_rows(case) -> None:
    check_rows(*case, "cuda")


@pytest.mark.parametrize("case", SLICE_CASES, ids=str)
def test_slice(case) -> None:
    check_slice(*case, "cuda")


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_nf4_is_bit_by_bit_that_of_bitsandbytes(double: bool, dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    w_NK = torch.randn(1024, 1536, device="cuda", dtype=dtype)
    packed, state = functional.quantize_4bit(w_NK, blocksize=64, quant_type="nf4", compress_statistics=double)
    stored = torch.nn.Parameter(packed, requires_grad=False)
    stored.quant_state = state
    read = read_nf4(stored)
    assert isinstance(read, Nf4Weight)
    buffer = torch.full((1024, 1600), float("nan"), dtype=dtype, device="cuda")
    dequantise_nf4(read, buffer[:, :1536])
    assert torch.equal(buffer[:, :1536], functional.dequantize_4bit(packed, state))
    assert bool(buffer[:, 1536:].isnan().all())


@pytest.mark.parametrize("double", [False, True])
def test_nf4_of_a_large_weight(double: bool) -> None:
    """A fused multiply-add in the absmax would show here: 917,504 blocks."""
    weight = quantise_nf4(torch.randn(14336, 4096, device="cuda", dtype=torch.bfloat16), double=double)
    found, expected = (torch.empty(14336, 4096, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    dequantise_nf4(weight, found)
    dequantise_nf4_plain(weight, expected)
    assert torch.equal(found, expected)


def test_nf4_beyond_32_bit_offsets() -> None:
    N, K = 34_000, 65_536  # 2.2e9 values
    packed = torch.randint(0, 256, (N * K // 2,), dtype=torch.uint8, device="cuda")
    weight = Nf4Weight(packed, torch.rand(N * K // 64, device="cuda"), (N, K), torch.bfloat16)
    out_NK = torch.full((N, K), float("nan"), dtype=torch.bfloat16, device="cuda")
    dequantise_nf4(weight, out_NK)
    last = Nf4Weight(packed[-5 * K // 2 :], weight.absmax[-5 * K // 64 :], (5, K), torch.bfloat16)
    expected = torch.empty(5, K, dtype=torch.bfloat16, device="cuda")
    dequantise_nf4_plain(last, expected)
    assert torch.equal(out_NK[-5:], expected)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_rows_beyond_32_bit_offsets(softcap: float | None) -> None:
    N, V = 17_000, 128_256  # 2.2e9 logits
    logits_NV = torch.randn(N, V, dtype=torch.bfloat16, device="cuda")
    targets_N = torch.randint(0, V, (N,), device="cuda")
    tail = logits_NV[-9:].double()
    expected_N = cross_entropy_plain(tail, targets_N[-9:], softcap)
    loss_N = cross_entropy_rows_(logits_NV, targets_N, softcap=softcap)
    torch.testing.assert_close(loss_N[-9:].double(), expected_N, rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(logits_NV[-9:].double(), tail, rtol=8e-3, atol=1e-9)


def test_slices_beyond_32_bit_offsets() -> None:
    N, V = 270_000, 8_064  # 2.2e9 logits
    logits_Nv = torch.randn(N, V, dtype=torch.bfloat16, device="cuda")
    targets_N = torch.randint(0, 3 * V, (N,), device="cuda")
    lse_N = torch.rand(N, device="cuda") + 9
    tail = logits_Nv[-9:].double()
    cross_entropy_slice_plain(tail, targets_N[-9:], lse_N[-9:].double(), V)
    cross_entropy_slice_(logits_Nv, targets_N, lse_N, V)
    torch.testing.assert_close(logits_Nv[-9:].double(), tail, rtol=8e-3, atol=1e-9)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_the_targets_logit_is_read_before_it_is_overwritten(softcap: float | None) -> None:
    """Many rows with the target in a program's first columns, twice: equal bit by bit, and right."""
    N, V = 20_000, 9_001
    logits_NV = torch.randn(N, V, device="cuda") * 4
    targets_N = torch.arange(N, device="cuda") % 600
    expected_N = cross_entropy_plain(logits_NV.double(), targets_N, softcap)
    losses = [cross_entropy_rows_(logits_NV.clone(), targets_N, softcap=softcap) for _ in range(2)]
    assert torch.equal(*losses)
    torch.testing.assert_close(losses[0].double(), expected_N, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_losses_of_a_head(softcap: float | None) -> None:
    hidden_ND = torch.randn(3000, 256, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight_VD = torch.randn(32_003, 256, device="cuda", dtype=torch.bfloat16) * 0.05
    targets_N = torch.randint(0, 32_003, (3000,), device="cuda")
    exact_ND = hidden_ND.detach().double().requires_grad_()
    exact = head_loss(exact_ND, weight_VD.double(), targets_N, softcap=softcap)
    found = head_loss(hidden_ND, weight_VD, targets_N, softcap=softcap)
    assert abs(found - exact) <= 1e-3 * exact
    (expected_ND,) = torch.autograd.grad(exact, exact_ND)
    (grad_ND,) = torch.autograd.grad(found, hidden_ND)
    assert (grad_ND.double() - expected_ND).norm() <= 1e-2 * expected_ND.norm()
    logp_N = token_logprobs(hidden_ND, weight_VD, targets_N, softcap=softcap)
    assert logp_N.dtype == torch.float32
    assert abs(logp_N.sum() + found) <= 1e-5 * found.abs()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [500, 4096])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_gradients_of_a_trained_head(softcap: float | None, chunk: int, bias: bool) -> None:
    """In bfloat16 with several slices, and with one, against float64; every row with a gradient of its own."""
    hidden_ND = torch.randn(3000, 256, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight_VD = (torch.randn(32_003, 256, device="cuda", dtype=torch.bfloat16) * 0.05).requires_grad_()
    bias_V = torch.randn(32_003, device="cuda", dtype=torch.bfloat16).requires_grad_() if bias else None
    targets_N = torch.randint(0, 32_003, (3000,), device="cuda")
    targets_N[::7] = -100
    weights_N = torch.linspace(-1, 2, 3000, device="cuda")
    leaves = [hidden_ND, weight_VD] + ([] if bias_V is None else [bias_V])
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    more = {"softcap": softcap, "chunk_rows": chunk}
    expected_N = token_logprobs(exact[0], exact[1], targets_N, bias=exact[2] if bias else None, **more)
    found_N = token_logprobs(hidden_ND, weight_VD, targets_N, bias=bias_V, **more)
    expected = torch.autograd.grad(expected_N, exact, weights_N.double())
    for ours, theirs in zip(torch.autograd.grad(found_N, leaves, weights_N), expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() <= 1e-2 * theirs.norm()
