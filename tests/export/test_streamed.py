"""The trained model read layer by layer is the trained model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whet.export import reference
from whet.export.adapter import find_origin
from whet.export.reference import Reference, load_reference
from whet.export.streamed import streamed_model

DOCUMENTS = [[5, 6, 7, 8, 20], [9, 8, 7], [100, 120, 140, 3, 4, 5, 6, 7]]
PLACES = [[0, 4], [2], [1, 5, 7]]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "saved head": {"modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_same_distributions(
    kind: str,
    family: str,
    request: pytest.FixtureRequest,
    make_adapter: Callable[..., Path],
    load_float32: Callable[..., Any],
) -> None:
    base = request.getfixturevalue(f"tiny_{family}_dir")
    adapter = make_adapter(base, **KINDS[kind])
    whole = Reference(load_float32(base, adapter), None)
    streamed = Reference(streamed_model(find_origin(adapter), torch.device("cpu")), None, streamed=True)
    for want, got in zip(whole.logprobs(DOCUMENTS, PLACES), streamed.logprobs(DOCUMENTS, PLACES), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_nothing_stays_in_memory(tiny_llama_dir: Path) -> None:
    model = streamed_model(find_origin(tiny_llama_dir), torch.device("cpu"))
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert {parameter.device.type for parameter in model._model.parameters()} == {"meta"}


def test_taken_where_memory_is_short(
    tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not load_reference(find_origin(tiny_llama_dir), str(tiny_llama_dir)).streamed
    monkeypatch.setattr(reference, "MEMORY_SHARE", 1e-9)  # a machine with next to nothing free
    assert load_reference(find_origin(tiny_llama_dir), str(tiny_llama_dir)).streamed
    assert "layer by layer" in capsys.readouterr().err
