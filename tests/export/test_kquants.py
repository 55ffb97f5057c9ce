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

from whet.export.kquants import encode_q4_k, encode_q6_k

Type = gguf.GGMLQuantizationType
ENCODERS = {Type.Q4_K: encode_q4_k, Type.Q6_K: encode_q6_k}
each_kind = pytest.mark.parametrize("kind", list(ENCODERS), ids=lambda kind: kind.name)
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


def _rmse(encoded: np.ndarray, kind: Type, weight: torch.Tensor) -> float:
    return float(np.sqrt(np.mean((gguf.quants.dequantize(encoded, kind) - weight.numpy()) ** 2)))


@each_kind
@pytest.mark.parametrize("make", [_normal, _heavy_tailed, _one_sided, _starter], ids=lambda make: make.__name__)
def test_error_is_within_one_percent_of_ggml(
    kind: Type, make: Callable[[], torch.Tensor], needs_llamacpp: None
) -> None:
    weight = make()
    ours, theirs = ENCODERS[kind](weight).numpy(), ggml_encode(weight.numpy(), kind)
    assert ours.shape == theirs.shape
    assert _rmse(ours, kind, weight) <= 1.01 * _rmse(theirs, kind, weight)


@each_kind
@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-8, 6e4])
def test_constant_blocks_come_back(kind: Type, value: float) -> None:
    """Blocks without any spread have no scale to divide by."""
    weight = torch.full((2, 512), value)
    decoded = gguf.quants.dequantize(ENCODERS[kind](weight).numpy(), kind)
    assert np.isfinite(decoded).all()
    np.testing.assert_allclose(decoded, value, rtol=2e-3, atol=1e-7)


@each_kind
def test_one_large_weight_among_zeros(kind: Type) -> None:
    weight = torch.zeros(1, 256)
    weight[0, 77] = -3.0
    decoded = gguf.quants.dequantize(ENCODERS[kind](weight).numpy(), kind)
    assert decoded[0, 77] == pytest.approx(-3.0, rel=2e-3)
    assert np.abs(np.delete(decoded[0], 77)).max() < 1e-2


@each_kind
def test_rows_do_not_depend_on_their_neighbours(kind: Type) -> None:
    """More rows than one chunk holds, encoded at once and one by one: the same bytes."""
    weight = torch.randn(1100, 256, generator=torch.Generator().manual_seed(4))
    together = ENCODERS[kind](weight)
    apart = torch.cat([ENCODERS[kind](row) for row in weight[1020:1030].split(1)])
    assert torch.equal(together[1020:1030], apart)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-2, 1e3), shift=st.floats(-2.0, 2.0))
def test_error_stays_below_the_step(seed: int, scale: float, shift: float) -> None:
    """No weight is further off than 1.5 steps. (Below 1e-2 the float16 factors themselves grow coarse.)"""
    weight = scale * (torch.randn(2, 256, generator=torch.Generator().manual_seed(seed)) + shift)
    spread = (weight.amax() - weight.amin().clamp(max=0.0)).item()
    for kind, levels in ((Type.Q4_K, 15), (Type.Q6_K, 32)):
        decoded = gguf.quants.dequantize(ENCODERS[kind](weight).numpy(), kind)
        assert np.abs(decoded - weight.numpy()).max() <= 1.5 * max(spread, weight.abs().max().item()) / levels
