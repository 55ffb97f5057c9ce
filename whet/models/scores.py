"""Models that score a text: a linear head with one output on a hidden state (``...ForSequenceClassification``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from whet.errors import ModelError
from whet.models.names import Location, adapter_settings

KIND = "ForSequenceClassification"
TASK = "SEQ_CLS"  # what PEFT calls such models; it then trains and saves the head beside the adapter
HEADS = ("score", "classifier")


def is_scorer(model: Any) -> bool:
    """Whether ``model``, plain or with PEFT's adapters, scores texts instead of writing them."""
    return type(_inner(model)).__name__.endswith(KIND)


def score_layer(model: Any) -> torch.nn.Linear:
    """The head of a scorer, that which is in force where an adapter brings its own.

    Raises:
        ModelError: no linear head with one output.
    """
    inner = _inner(model)
    head: Any = next((getattr(inner, name) for name in HEADS if hasattr(inner, name)), None)
    if hasattr(head, "modules_to_save"):
        head = head.modules_to_save[head.active_adapter] if not head.disable_adapters else head.original_module
    if not isinstance(head, torch.nn.Linear) or head.out_features != 1 or head.bias is not None:
        raise ModelError(
            f"{type(inner).__name__} has no linear head with one score",
            "a model of AutoModelForSequenceClassification with num_labels=1",
        )
    return head


def widen_head(model: Any) -> None:
    """Hold the trained head in float32, as adapters are: steps of bfloat16 would swallow its updates.

    The model's own forward then gives it its input in float32, by a hook on this one layer.
    """
    head = score_layer(model)
    if head.weight.requires_grad and head.weight.dtype in (torch.bfloat16, torch.float16):
        head.float()
        head.register_forward_pre_hook(_as_weight)


def refuse_scorer(place: Location) -> None:
    """Refuse to let a reward model write texts: its head for words would be new, and its answers noise.

    Raises:
        ModelError: the folder is of a model that scores.
    """
    task = adapter_settings(place.adapter).get("task_type") if place.adapter is not None else None
    if task == TASK or _architecture(place.base).endswith(KIND):
        raise ModelError(
            f"{place.adapter or place.base} is a reward model: it scores texts and writes none",
            "a model that writes",
            "load it with transformers' AutoModelForSequenceClassification (docs/preference.md)",
        )


class WriterView(torch.nn.Module):
    """A scorer's backbone with its embedding as the head: what the engine reads and checks. It owns no numbers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        inner = _inner(model)
        self.config, self.model = inner.config, inner.model
        table = inner.get_input_embeddings().weight
        self.lm_head = torch.nn.Linear(table.shape[1], table.shape[0], bias=False, device="meta")
        self.lm_head.weight = torch.nn.Parameter(table.detach(), requires_grad=False)

    def forward(self, **arguments: Any) -> Any:
        """Logits, as a causal model gives them."""
        logits, cap = self.lm_head(self.model(**arguments)[0]), getattr(self.config, "final_logit_softcapping", None)
        return _Logits(logits if cap is None else cap * torch.tanh(logits / cap))


class _Logits:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


def _as_weight(head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].to(head.weight.dtype), *inputs[1:])  # type: ignore[arg-type]


def _architecture(base: str) -> str:
    """The class that a local folder's weights were saved from; "" where that is not known."""
    file = Path(base, "config.json")
    named = json.loads(file.read_text(encoding="utf-8")).get("architectures") if file.is_file() else None
    return str(named[0]) if named else ""


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
