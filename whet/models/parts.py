"""Parts of a causal language model: what makes hidden states, the head that makes logits of them, and the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from whet.models.scores import is_scorer, score_layer

AGREES = 1e-4  # largest difference of logits, relative to their size, that still counts as the same function


class Halves(NamedTuple):
    """``head(backbone(input_ids=..., ...)[0])`` are the model's logits, or the scores of a model that scores texts."""

    backbone: Any
    head: Any


def halves(model: Any) -> Halves | None:
    """Backbone and head of a model, adapters in place; None where logits are more than head(hidden states).

    Some families scale or cap their logits after the head. Whether this one does is measured, not looked up: a few
    tokens go both ways and must agree.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if is_scorer(model):
        return Halves(causal.model, score_layer(model))
    backbone = getattr(causal, getattr(causal, "base_model_prefix", "") or "model", None)
    head = causal.get_output_embeddings()
    if backbone is None or head is None or backbone is causal:
        return None
    found = Halves(backbone, head)
    return found if _agrees(model, found) else None


@torch.no_grad()
def _agrees(model: Any, found: Halves) -> bool:
    ids_BT = torch.arange(1, 9, device=next(model.parameters()).device)[None]
    training = model.training
    model.eval()
    try:
        whole = model(input_ids=ids_BT, use_cache=False).logits.float()
        split = found.head(found.backbone(input_ids=ids_BT, use_cache=False)[0]).float()
    except (TypeError, AttributeError, RuntimeError):  # a model of another build: its own forward is used
        return False
    finally:
        model.train(training)
    return whole.shape == split.shape and bool((whole - split).abs().max() <= AGREES * whole.abs().max())


@contextmanager
def exact_on_cpu(model: Any) -> Iterator[None]:
    """Hold a CPU model's short weights in float32 for a while: training chose bfloat16, a proof is made in float32."""
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    short = [p for p in model.parameters() if on_cpu and p.dtype in (torch.bfloat16, torch.float16)]
    weights = [parameter.data for parameter in short]
    for parameter in short:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, weight in zip(short, weights, strict=True):
            parameter.data = weight
