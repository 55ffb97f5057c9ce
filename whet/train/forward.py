"""The forward of a training step: the engine where there is one, else the model's own.

B rows of T tokens, N positions that predict a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from whet.data.loader import Layout
from whet.engine.forward import Engine
from whet.engine.kernels.dispatch import wide
from whet.engine.loss import CHUNK_ROWS, IGNORE, module_logprobs, token_logprobs
from whet.models.parts import Halves
from whet.train.shared_attention import forward_arguments

Batch = dict[str, Any]  # of data/loader.py or data/answer_loader.py


@dataclass(frozen=True)
class Forward:
    """Log-probabilities of a batch's labels, with the adapters or without them.

    Args:
        model: as the trainer wraps it.
        own: the user's model itself.
        engine, halves: as of the trainer; None where there are none.
        autocast: makes the context that the trainer computes in.
        documents: the model's own attention is told the documents (``shared_attention.py``).
    """

    model: Any
    own: Any
    engine: Engine | None
    halves: Halves | None
    autocast: Callable[[], AbstractContextManager[Any]]
    documents: bool = False

    @property
    def has_adapters(self) -> bool:
        """Whether there is a model without adapters to compare with."""
        return hasattr(self.own, "disable_adapter")

    def logprobs(self, batch: Batch) -> torch.Tensor:
        """``logp_N`` of the batch's labels, row after row, float32 (float64 for float64); in nats."""
        if self.engine is not None:
            layout: Layout = batch["layout"]
            return self.engine.logprobs(
                batch["input_ids"], batch["position_ids"], batch["labels"], batch["rows"], layout.lengths, layout.shared
            )
        rows_N = batch["rows"]
        targets_N = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE).flatten()[rows_N]
        forward = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
        if self.documents:
            forward |= forward_arguments(batch["position_ids"], batch["layout"].lengths, batch["layout"].shared)
        if self.halves is not None:
            with self.autocast():
                hidden_ND = self.halves.backbone(**forward)[0].flatten(0, 1).index_select(0, rows_N)
                return _head_logprobs(hidden_ND, self.halves.head, targets_N)
        logits_NV = self.model(**forward).logits.flatten(0, 1).index_select(0, rows_N)
        return module_logprobs(logits_NV, _as_they_are, targets_N)

    def hidden(self, batch: Batch, rows_N: torch.Tensor) -> torch.Tensor:
        """``hidden_ND``, what the head reads, at positions among the B * T of a batch.

        Raises:
            ValueError: a model whose backbone is not known.
        """
        if self.engine is not None:
            with torch.autocast(rows_N.device.type, enabled=False):
                return self.engine.hidden(batch["input_ids"], batch["position_ids"], rows_N, batch["layout"].lengths)
        if self.halves is None:
            raise ValueError("this model's backbone is not known")
        with self.autocast():
            hidden_BTD = self.halves.backbone(
                input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
            )[0]
        return hidden_BTD.flatten(0, 1).index_select(0, rows_N)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it ``logprobs`` are those of the model without its adapters, without gradients."""
        if self.engine is None:
            with torch.no_grad(), self.own.disable_adapter():
                yield
            return
        outside = self.own.disable_adapter() if self.engine.adapts_ends else nullcontext()
        with self.engine.adapters_off(), outside:
            yield


class Way(NamedTuple):
    """How a data set will be gone through.

    Attributes:
        groups: numbers of the items of each batch, in order: of the first epoch, or of the validation.
        name: "train", "valid", or None for other rows.
        resumed: the run goes on from a checkpoint.
    """

    groups: Sequence[Sequence[int]]
    name: str | None
    resumed: bool


class Counter(Protocol):
    """Means over examples."""

    def way_back(self) -> Callable[[], None]:
        """What brings the figures back to what they are now."""
        ...

    def take(self) -> dict[str, float]:
        """The means so far; counting begins anew."""
        ...


class Objective(Protocol):
    """A loss other than the cross-entropy of labels; ``whet.train.preference.objective`` is one."""

    @property
    def training(self) -> Counter:
        """Figures of the steps since the last log line."""
        ...

    @property
    def validation(self) -> Counter:
        """Figures of the validation."""
        ...

    def prepare(
        self,
        forward: Forward,
        dataset: Any,
        load: Callable[[list[Any]], Batch],
        way: Way,
    ) -> None:
        """Before the first step on a data set.

        Args:
            load: items to a batch on the device.
        """
        ...

    def begin_step(self, forward: Forward, batches: Iterable[Batch]) -> None:
        """Before an optimizer step (or a validation), with all of its batches."""
        ...

    def count(self, batch: Batch) -> int:
        """What the loss of a step is averaged over."""
        ...

    def loss_sum(self, forward: Forward, batch: Batch) -> torch.Tensor:
        """The sum of the losses of a batch, float32."""
        ...


def _head_logprobs(hidden_ND: torch.Tensor, head: Any, targets_N: torch.Tensor) -> torch.Tensor:
    """As ``whet.engine.loss.labelled_loss`` chooses: a linear head's gradients are made without autograd."""
    if type(head) is torch.nn.Linear:
        return token_logprobs(hidden_ND, head.weight, targets_N, bias=head.bias, chunk_rows=CHUNK_ROWS)
    return module_logprobs(hidden_ND, head, targets_N, chunk_rows=CHUNK_ROWS)


def _as_they_are(logits_NV: torch.Tensor) -> torch.Tensor:
    return logits_NV.to(wide(logits_NV.dtype))
