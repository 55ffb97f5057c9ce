"""whet's block encoders against ggml's own, decoded by the gguf package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from ggml_oracle import ggml_encode
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import ExportError
from whet.export.blocks import encode
from whet.export.quants import ENCODERS, encode_blocks

Type = gguf.GGMLQuantizationType
KINDS = list(ENCODERS)
IMPORTANCE_COUNTS = [kind for kind in KINDS if kind != Type.Q8_0]
EXACT = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]  # no search without an importance matrix
STEPS = {Type.Q2_K: 3, Type.Q3_K: 4, Type.Q4_K: 15, Type.Q5_K: 31, Type.Q6_K: 32,
         Type.Q4_0: 8, Type.Q4_1: 15, Type.Q5_0: 16, Type.Q5_1: 31, Type.Q8_0: 127}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
STARTER = Path(__file__).resolve().parents[2] / "whet" / "models" / "starter"


def _normal() -> torch.Tensor:
    return 0.02 * torch.randn(256, 1024, generator=torch.Generator().manual_seed(1))


def _heavy_tailed() -> torch.Tensor:
    torch.manual_seed(2)
    return 0.02 * torch.distributions.StudentT(3.0).sample((256, 1024))


def _one_sided() -> torch.Tensor:
    return torch.rand(256, 1024, generator=torch.Generator().manual_seed(3)) + 0.1


def _starter() -> torch.Tensor:
    from whet.export.tensors import CheckpointSource

    if not STARTER.is_dir():
        pytest.skip("the starter is not in this checkout")
    return CheckpointSource(STARTER).get("model.layers.1.mlp.down_proj.weight")


def _error(encoded: np.ndarray, kind: Type, weight: torch.Tensor, importance: torch.Tensor | None = None) -> float:
    """Root of the mean squared error, weighted by the importance of the columns."""
    squared = (gguf.quants.dequantize(encoded, kind) - weight.numpy()).astype(np.float64) ** 2
    return float(np.sqrt((squared if importance is None else squared * importance.numpy()).mean()))


each_weight = pytest.mark.parametrize(
    "make", [_normal, _heavy_tailed, _one_sided, _starter], ids=lambda make: make.__name__
)


@each_kind
@each_weight
def test_error_is_within_one_percent_of_ggml(
    kind: Type, make: Callable[[], torch.Tensor], needs_llamacpp: None
) -> None:
    weight = make()
    ours, theirs = encode_blocks(weight, kind).numpy(), ggml_encode(weight.numpy(), kind)
    assert ours.shape == theirs.shape
    assert _error(ours, kind, weight) <= 1.01 * _error(theirs, kind, weight)
    if kind in EXACT:
        assert (ours != theirs).mean() < 0.01  # ties and the last bit of a division


@pytest.mark.parametrize("kind", IMPORTANCE_COUNTS, ids=lambda kind: kind.name)
@each_weight
def test_weighted_error_is_within_one_percent_of_ggml(
    kind: Type, make: Callable[[], torch.Tensor], needs_llamacpp: None
) -> None:
    weight = make()
    importance = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(5)).exp().square()
    ours = encode_blocks(weight, kind, importance).numpy()
    theirs = ggml_encode(weight.numpy(), kind, importance.numpy())
    assert _error(ours, kind, weight, importance) <= 1.01 * _error(theirs, kind, weight, importance)
    plain = encode_blocks(weight, kind).numpy()
    assert _error(ours, kind, weight, importance) < _error(plain, kind, weight, importance)


@each_kind
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-8, 6e4])
@pytest.mark.parametrize("weighted", [False, True])
def test_constant_blocks_come_back(kind: Type, value: float, weighted: bool) -> None:
    """Blocks without any spread have no scale to divide by."""
    weight = torch.full((2, 512), value)
    importance = torch.rand(512) if weighted else None
    decoded = gguf.quants.dequantize(encode_blocks(weight, kind, importance).numpy(), kind)
    assert np.isfinite(decoded).all()
    np.testing.assert_allclose(decoded, value, rtol=4e-3, atol=2e-7)


@each_kind
def test_columns_without_importance_stay_finite(kind: Type) -> None:
    """An input that never fired has importance 0, a whole block of them too."""
    importance = torch.rand(1024)
    importance[:512] = 0.0
    importance[700] = 0.0
    decoded = gguf.quants.dequantize(encode_blocks(_normal(), kind, importance).numpy(), kind)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() < 1.0


@each_kind
def test_one_large_weight_among_zeros(kind: Type) -> None:
    weight = torch.zeros(1, 256)
    weight[0, 77] = -3.0
    decoded = gguf.quants.dequantize(encode_blocks(weight, kind).numpy(), kind)
    assert decoded[0, 77] == pytest.approx(-3.0, rel=2e-3)
    assert np.abs(np.delete(decoded[0], 77)).max() < 1e-2


@each_kind
def test_rows_do_not_depend_on_their_neighbours(kind: Type) -> None:
    """More rows than one chunk holds, encoded at once and one by one: the same but for the last bit of a sum."""
    weight = torch.randn(1100, 256, generator=torch.Generator().manual_seed(4))
    together = encode_blocks(weight, kind)[1000:1100]
    apart = torch.cat([encode_blocks(row, kind) for row in weight[1000:1100].split(1)])
    assert (together != apart).float().mean() < 0.01
    errors = [_error(encoded.numpy(), kind, weight[1000:1100]) for encoded in (together, apart)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


@each_kind
def test_threads_change_no_byte(kind: Type) -> None:
    weight = torch.randn(2100, 256, generator=torch.Generator().manual_seed(6))
    before = torch.get_num_threads()
    alone = encode_blocks(weight, kind)
    try:
        torch.set_num_threads(3)
        assert torch.equal(encode_blocks(weight, kind), alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
@each_kind
def test_a_gpu_is_as_close(kind: Type) -> None:
    weight = _normal()
    there = encode_blocks(weight, kind, device=torch.device("cuda")).numpy()
    here = encode_blocks(weight, kind).numpy()
    assert _error(there, kind, weight) == pytest.approx(_error(here, kind, weight), rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-2, 1e3), shift=st.floats(-2.0, 2.0))
def test_error_stays_below_the_step(seed: int, scale: float, shift: float) -> None:
    """No weight is further off than 1.5 steps. (Below 1e-2 the float16 factors themselves grow coarse.)"""
    weight = scale * (torch.randn(2, 256, generator=torch.Generator().manual_seed(seed)) + shift)
    spread = (weight.amax() - weight.amin().clamp(max=0.0)).item()
    for kind, levels in STEPS.items():
        decoded = gguf.quants.dequantize(encode_blocks(weight, kind).numpy(), kind)
        assert np.abs(decoded - weight.numpy()).max() <= 1.5 * max(spread, weight.abs().max().item()) / levels


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    weight = _normal()
    weight[3, 5] = value
    for kind in (Type.F32, Type.Q4_K):
        with pytest.raises(ExportError, match="infinite or not a number"):
            encode(weight, kind)


def test_weights_beyond_float16_are_refused_in_f16_only() -> None:
    weight = torch.full((2, 256), 7e4)
    with pytest.raises(ExportError, match="bf16"):
        encode(weight, Type.F16)
    assert encode(weight, Type.BF16).shape == (2, 512)
