"""Packed documents do not see each other on a model's own forward, if the call is right: and what breaks it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from whet.data.loader import PackedDataset, PaddedDataset, collate, collate_padded, prepare
from whet.text.encode import Encoded


@pytest.fixture(scope="module", params=["tiny_llama_dir", "tiny_qwen2_dir"])
def model(request):
    folder = request.getfixturevalue(request.param)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


@pytest.fixture(scope="module")
def prepared():
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(4, 300, (size,), generator=generator).tolist() for size in (40, 23, 31, 17, 60, 9)]
    return prepare([Encoded(ids, ((1, len(ids)),)) for ids in rows], 64)


def documents(item):
    starts = [i for i, position in enumerate(item["position_ids"].tolist()) if position == 0]
    return list(zip(starts, [*starts[1:], len(item["position_ids"])], strict=True))


@torch.no_grad()
def alone(model, ids):
    return model(input_ids=ids[None], use_cache=False).logits[0]


@torch.no_grad()
def test_each_document_is_as_if_alone(model, prepared):
    packed = PackedDataset(prepared, 64)
    items = list(packed)
    batch = collate(items, pad_id=3)
    logits_BTV = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=None, use_cache=False
    ).logits
    assert packed.documents_per_bin.max() > 1
    for b, item in enumerate(items):
        for start, end in documents(item):
            expected_TV = alone(model, item["input_ids"][start:end])
            assert (logits_BTV[b, start:end] - expected_TV).abs().max() <= 1e-4


@torch.no_grad()
def test_an_all_ones_mask_lets_documents_see_each_other(model, prepared):
    """If this fails, transformers changed: then the rule above may be loosened."""
    item = max(PackedDataset(prepared, 64), key=lambda item: len(documents(item)))
    ids_1T, positions_1T = item["input_ids"][None], item["position_ids"][None]
    logits_TV = model(
        input_ids=ids_1T, position_ids=positions_1T, attention_mask=torch.ones_like(ids_1T), use_cache=False
    ).logits[0]
    start, end = documents(item)[1]
    assert (logits_TV[start:end] - alone(model, item["input_ids"][start:end])).abs().max() > 1e-2


@torch.no_grad()
def test_padding_changes_no_real_token(model, prepared):
    rows = PaddedDataset(prepared)
    items = [rows[i] for i in range(len(rows))]
    batch = collate_padded(items, pad_id=3)
    logits_BTV = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], attention_mask=None, use_cache=False
    ).logits
    for b, item in enumerate(items):
        size = len(item["input_ids"])
        assert (logits_BTV[b, :size] - alone(model, item["input_ids"])).abs().max() <= 1e-4
