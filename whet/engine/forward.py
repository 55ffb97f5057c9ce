"""The engine: a second forward over a model's own parameters.

The model stays what it is, and its own forward keeps working; the engine holds references to its weights, computes the
loss of a packed batch with one autograd function for each layer, and leaves the gradients at PEFT's own parameters, or
at the model's where those are trained themselves.

B rows of S tokens, T = B S, D hidden size, V vocabulary, N positions that predict a label.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

from whet.engine.attention import documents_of
from whet.engine.kernels.dispatch import wide
from whet.engine.kernels.norm import rms_norm, rms_norm_backward
from whet.engine.layer import Batch, LayerFunction, Policy, layer_forward
from whet.engine.lora import base_of
from whet.engine.loss import CHUNK_ROWS, IGNORE, head_loss, module_logprobs, module_loss, token_logprobs
from whet.engine.parts import NORMS, Layer
from whet.engine.quantised import read_nf4
from whet.engine.read import read_model
from whet.engine.spec import GROUPS, LayerParts, ModelSpec, Unsupported
from whet.engine.storage import Nf4, StorageName
from whet.engine.weights import Group, Refresh


class Engine:
    """Loss and gradients of one model.

    Args:
        spec: from ``read_model``.
        policies: what each layer keeps for its backward; one for all, or one for each.
        streamed: whether frozen dense weights stay in main memory; None: where they do not lie with the embedding.

    Attributes:
        policies: of each layer; may be changed between steps, as the two below.
        tile: rows of the MLP at once, in layers that make it again; None: all.
        chunk_rows: rows of logits that exist at once.
    """

    def __init__(
        self, spec: ModelSpec, policies: Policy | Sequence[Policy] = "none", *, streamed: bool | None = None
    ) -> None:
        self.spec = spec
        self._shared: dict[Any, Any] = {}  # buffers of NF4 or streamed weights, by shape
        table: Any = base_of(spec.embed).weight
        self.layers = [
            Layer(numbers, parts, *(_group(parts, name, table, self._shared, streamed) for name in GROUPS))
            for numbers, parts in spec.layers
        ]
        self.policies: list[Policy] = [policies] * len(self.layers) if isinstance(policies, str) else list(policies)
        self.tile: int | None = None
        self.chunk_rows = CHUNK_ROWS
        groups = [group for layer in self.layers for group in layer.groups]
        self._refresh = Refresh([group for group in groups if not group.trained])
        self._trained = [group for group in groups if group.trained]
        self._parameters = [parameter for layer in self.layers for parameter in layer.parameters]
        self._found = self._weights()
        self._seen = self._versions()
        self._off = False
        self._last: tuple[Any, Batch | None] = (None, None)
        self._follow_optimizers()

    @classmethod
    def attach(cls, model: Any, policies: Policy | Sequence[Policy] = "none") -> Engine | Unsupported:
        """An engine for a loaded model, with PEFT's adapters or without them; or why there is none."""
        spec = read_model(model)
        return spec if isinstance(spec, Unsupported) else cls(spec, policies)

    def loss_sum(
        self,
        input_ids_BS: torch.Tensor,
        position_ids_BS: torch.Tensor,
        labels_BS: torch.Tensor,
        rows_N: torch.Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Sum of the cross-entropy, in nats, over all positions whose next token has a label.

        Args:
            position_ids_BS: restart where a document begins, at 0, or at p where it shares its first p tokens with the
                document before it; documents do not see each other.
            labels_BS: not shifted; IGNORE where nothing is trained.
            rows_N: which of the T positions predict a label; lengths: tokens of the documents, row after row. Where the
                loader gives both, nothing is read back from the device.
        """
        rows_N, targets_N = _labelled(labels_BS, rows_N)
        with torch.autocast(input_ids_BS.device.type, enabled=False):
            hidden_ND = self.hidden(input_ids_BS, position_ids_BS, rows_N, lengths)
            return self._head_loss(hidden_ND, targets_N)

    def logprobs(
        self,
        input_ids_BS: torch.Tensor,
        position_ids_BS: torch.Tensor,
        labels_BS: torch.Tensor,
        rows_N: torch.Tensor | None = None,
        lengths: Sequence[int] | None = None,
        shared: Sequence[int] = (),
    ) -> torch.Tensor:
        """The log-probability of each label, in nats: ``logp_N``, row after row; arguments as of ``loss_sum``.

        Args:
            shared: with ``lengths``, how many of a document's first tokens are those of the document before it.
        """
        rows_N, targets_N = _labelled(labels_BS, rows_N)
        with torch.autocast(input_ids_BS.device.type, enabled=False):
            hidden_ND = self.hidden(input_ids_BS, position_ids_BS, rows_N, lengths, shared)
            head, cap = self.spec.head, self.spec.logit_softcap
            if self._head_is_plain():
                return token_logprobs(
                    hidden_ND, head.weight, targets_N, bias=head.bias, softcap=cap, chunk_rows=self.chunk_rows
                )
            return module_logprobs(hidden_ND, head, targets_N, softcap=cap, chunk_rows=self.chunk_rows)

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Within it the engine computes what the model does without its adapters, for a reference; no gradients.

        The operand s * B of every group is zero meanwhile. The products have the same shapes as with adapters, and so
        the same rounding: adapters whose B is zero and no adapters give the same bits.
        """
        self.refresh()
        for layer in self.layers:
            for group in layer.groups:
                group.switch_off()
        self._off, self._seen = True, self._versions()
        try:
            with torch.no_grad():
                yield
        finally:
            self._off, self._seen = False, []

    def hidden(
        self,
        input_ids_BS: torch.Tensor,
        position_ids_BS: torch.Tensor,
        rows_N: torch.Tensor | None = None,
        lengths: Sequence[int] | None = None,
        shared: Sequence[int] = (),
    ) -> torch.Tensor:
        """Last hidden states after the final norm, of the positions ``rows_N`` among all T; None: of all."""
        self.refresh()
        spec = self.spec
        x_TD = spec.embed(input_ids_BS).flatten(0, 1)
        batch = self._batch(position_ids_BS, x_TD.dtype, lengths, shared)
        grad = torch.is_grad_enabled()
        for number, (layer, policy) in enumerate(zip(self.layers, self.policies, strict=True)):
            last = number == len(self.layers) - 1
            x_TD = LayerFunction.apply(
                x_TD, layer, batch, policy if grad or self._off else "full", rows_N if last else None, *layer.parameters
            )
        return FinalNorm.apply(x_TD, spec.final_norm, spec.final_norm_eps, spec.final_norm_offset)

    def _batch(
        self, position_ids_BS: torch.Tensor, dtype: torch.dtype, lengths: Sequence[int] | None, shared: Sequence[int]
    ) -> Batch:
        """What layers share. The last one is kept: the reference and the policy see the same documents."""
        key = None if lengths is None else (tuple(lengths), tuple(shared), position_ids_BS.device, dtype, self.tile)
        if key is None or key != self._last[0]:
            self._last = None, None  # before the next one is made
            documents = documents_of(position_ids_BS, lengths, shared)
            self._last = key, Batch(documents, self.spec.rotary(position_ids_BS, dtype), self.tile)
        assert self._last[1] is not None
        return self._last[1]

    def run_layer(self, number: int, x_TD: torch.Tensor, position_ids_1T: torch.Tensor) -> torch.Tensor:
        """The output of one layer, without gradients (for ``check.py``)."""
        self.refresh()
        batch = Batch(documents_of(position_ids_1T), self.spec.rotary(position_ids_1T, x_TD.dtype))
        return layer_forward(x_TD, self.layers[number], batch)[0]

    def changed(self, *_: Any) -> None:
        """The adapters have new values: for an optimizer that writes them by another way than the parameters."""
        self._seen = []

    def _follow_optimizers(self) -> None:
        """Any optimizer's step may have changed the adapters: torch's fused kernels and bitsandbytes' write parameters
        without counting their versions up."""
        this = weakref.ref(self)

        def stepped(*_: Any) -> None:
            engine = this()
            if engine is not None:
                engine.changed()

        self._unfollow = weakref.finalize(self, register_optimizer_step_post_hook(stepped).remove)

    def refresh(self) -> None:
        """Take over adapter weights that an optimizer, or a loaded checkpoint, has changed, and trained weights that
        something has moved.

        Raises:
            ValueError: trained weights are of another dtype or on another device now.
        """
        versions = self._versions()
        if versions != self._seen:
            for group in self._trained:
                group.follow()
            self._refresh.run()
            self._seen = self._versions()

    def set_resident(self, resident: Sequence[bool]) -> None:
        """Which layers hold their quantised weights in 16 bits beside the model's own, where memory is plenty: they are
        not dequantised again in every step. Buffers that all layers share go where every layer has its own."""
        groups = [
            (group.storage, wanted)
            for layer, wanted in zip(self.layers, resident, strict=True)
            for group in layer.groups
            if isinstance(group.storage, Nf4)
        ]
        for storage, wanted in sorted(groups, key=lambda pair: pair[1]):  # memory is given back before more is taken
            storage.set_resident(wanted)
        if all(wanted for _, wanted in groups):
            self._shared.clear()

    def release(self) -> None:
        """Give the model weights of its own again; the engine is of no more use."""
        self._unfollow()
        self._last = None, None
        self._refresh.release()  # or every buffer would live until the last weight has been copied out of its own
        for layer in self.layers:
            for group in layer.groups:
                group.release()

    @property
    def adapts_ends(self) -> bool:
        """Whether the embedding or the head has an adapter, or a trained copy (``modules_to_save``): ``adapters_off``
        does not reach those."""
        names = ("base_layer", "original_module")
        return any(hasattr(module, name) for module in (self.spec.embed, self.spec.head) for name in names)

    @property
    def outdated(self) -> bool:
        """Whether the layers have other weights, or others are trained, than when the engine was made."""
        return self._weights() != self._found

    def _weights(self) -> list[tuple[int, bool]]:
        """Which weights there are, and whether each is trained."""
        parts = [parts for _, parts in self.spec.layers]
        norms = [getattr(part, name) for part in parts for name in NORMS]
        own = [weight for part in parts for module in part.modules() for weight in module.parameters()]
        return [(id(weight), weight.requires_grad) for weight in [*norms, *own] if weight is not None]

    def _versions(self) -> list[tuple[int, int]]:
        return [(parameter.data_ptr(), parameter._version) for parameter in self._parameters]

    def _head_loss(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        head, cap = self.spec.head, self.spec.logit_softcap
        if self._head_is_plain():
            return head_loss(hidden_ND, head.weight, targets_N, bias=head.bias, softcap=cap, chunk_rows=self.chunk_rows)
        return module_loss(hidden_ND, head, targets_N, softcap=cap, chunk_rows=self.chunk_rows)

    def _head_is_plain(self) -> bool:
        return type(self.spec.head) is torch.nn.Linear  # without an adapter; trained or frozen


def _labelled(labels_BS: torch.Tensor, rows_N: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions that predict a label, and those labels."""
    targets_T = F.pad(labels_BS[:, 1:], (0, 1), value=IGNORE).flatten()
    if rows_N is None:
        rows_N = (targets_T != IGNORE).nonzero().squeeze(1)
    return rows_N, targets_T.index_select(0, rows_N)


def _group(parts: LayerParts, name: str, table: torch.Tensor, shared: dict[Any, Any], streamed: bool | None) -> Group:
    """NF4 where the model holds its weights so, streamed where they lie elsewhere than the embedding, else dense."""
    modules = parts.groups[name]
    base: Any = base_of(modules[0])
    packed = not isinstance(read_nf4(base), str)
    elsewhere = base.weight.device != table.device if streamed is None else streamed
    storage: StorageName = "nf4" if packed else "streamed" if elsewhere else "dense"
    return Group(modules, table.dtype, storage, shared, device=table.device)


class FinalNorm(torch.autograd.Function):
    """RMSNorm with a frozen or trained weight."""

    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float, offset: int) -> torch.Tensor:
        y_ND, rstd_N = rms_norm(x_ND, weight_D, eps, offset)
        ctx.save_for_backward(x_ND, weight_D, rstd_N)
        ctx.offset = offset
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        x_ND, weight_D, rstd_N = ctx.saved_tensors
        dweight_D = torch.zeros_like(weight_D, dtype=wide(weight_D.dtype)) if ctx.needs_input_grad[1] else None
        dx_ND = rms_norm_backward(grads[0], x_ND, weight_D, rstd_N, ctx.offset, dweight=dweight_D)
        return dx_ND, dweight_D, None, None
