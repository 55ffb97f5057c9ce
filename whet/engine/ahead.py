"""Compiles the kernels of a training step before the first one is launched, all at the same time.

Which kernels those are is not written down: one layer of each kind runs forward and backward on the ``meta`` device,
where tensors have shapes, strides and alignments but no numbers, and the launches on the way are noted.

T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from whet import runtime
from whet.engine.documents import Documents
from whet.engine.kernels.available import triton_problem
from whet.engine.kernels.cross_entropy import cross_entropy_rows, cross_entropy_rows_, cross_entropy_slice_
from whet.engine.kernels.launch import Launch, compile_all, distinct, noted
from whet.engine.kernels.nf4 import BLOCK as NF4_BLOCK
from whet.engine.kernels.nf4 import NestedAbsmax, Nf4Weight, dequantise_nf4
from whet.engine.kernels.norm import rms_norm, rms_norm_backward
from whet.engine.kernels.scatter import BLOCK
from whet.engine.layer import Batch, layer_backward, layer_forward
from whet.engine.lora import base_of, lora_of
from whet.engine.parts import Layer, with_columns
from whet.engine.quantised import read_nf4
from whet.engine.shape import Shape, shape_of_config
from whet.engine.spec import GROUPS, Activation, LayerParts, LayerSpec, ModelSpec
from whet.engine.trained_head import ALIGNMENT
from whet.engine.weights import PAD, Group

TOKENS = 64  # of the noted step; kernels do not depend on it
META = torch.device("meta")
ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}  # by the name in a config

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Kinds:
    """What the kernels of a model's training step depend on.

    Attributes:
        layers: the different layers, each once.
        dtype: of activations; norms: of the norms' weights.
        packed: NF4 weights as meta tensors, one of each form; empty where weights are dense.
        adapters: dtypes of the adapters' matrices.
        vocab: rows of the head where it is a plain linear layer, so that kernels compute the loss; None: it is not.
        head_trained: the backward has a kernel of its own then.
        norms_trained: so are the norms, and the weights with them.
    """

    layers: tuple[LayerSpec, ...]
    dtype: torch.dtype
    norms: torch.dtype
    packed: tuple[Nf4Weight, ...]
    adapters: frozenset[torch.dtype]
    vocab: int | None
    softcap: float | None = None
    head_trained: bool = False
    norms_trained: bool = False


def kinds_of(spec: ModelSpec) -> Kinds:
    """The kinds of a model that was read."""
    modules = [module for _, parts in spec.layers for name in GROUPS for module in parts.groups[name]]
    packed = [weight for weight in (read_nf4(base_of(module)) for module in modules) if isinstance(weight, Nf4Weight)]
    loras = [lora for lora in map(lora_of, modules) if lora is not None]
    head = spec.head
    plain = type(head) is torch.nn.Linear
    return Kinds(
        tuple(dict.fromkeys(layer for layer, _ in spec.layers)),
        base_of(spec.embed).weight.dtype,  # type: ignore[arg-type]
        spec.final_norm.dtype,
        tuple({_form(weight): _like(weight) for weight in packed}.values()),
        frozenset(matrix.dtype for lora in loras for matrix in (lora.A, lora.B)),
        spec.vocab if plain else None,
        spec.logit_softcap,
        plain and any(parameter.requires_grad for parameter in head.parameters()),
        spec.final_norm.requires_grad,
    )


def kinds_of_config(config: Any, dtype: torch.dtype, *, four_bit: bool) -> Kinds | None:
    """The kinds of a model whose weights are not read yet, with frozen weights and PEFT's float32 adapters.

    Args:
        config: transformers' config of a model.
        dtype: that its weights will be loaded in.
        four_bit: NF4 with double quantisation, as ``load_in_4bit`` makes it.

    Returns:
        None for a model that the engine does not know by its config.
    """
    shape = shape_of_config(config, rank=1)
    values = config.to_dict()
    values = values.get("text_config") or values
    activation = ACTIVATIONS.get(values.get("hidden_activation") or values.get("hidden_act"))
    if isinstance(shape, str) or activation is None:
        return None
    packed = {_form(weight): weight for weight in _packed_weights(shape, dtype)} if four_bit else {}
    return Kinds(
        (_layer_of(shape, values, activation),),
        dtype,
        dtype,
        tuple(packed.values()),
        frozenset({torch.float32}),
        shape.vocab,
        values.get("final_logit_softcapping"),
    )


def launches_of(kinds: Kinds) -> list[Launch]:
    """A launch of each kernel variant that a training step of such a model takes. Imports Triton."""
    with noted() as launches:
        for spec in kinds.layers:
            for rows_N in (None, torch.empty(TOKENS, dtype=torch.int64, device=META)):
                _step(spec, kinds, rows_N)
        for weight in kinds.packed:
            _dequantise(weight, kinds.dtype)
        for dtype in kinds.adapters:
            _refresh(dtype, kinds.dtype)
        if kinds.layers:
            _ends(kinds)
    return distinct(launches)


def compile_ahead(spec: ModelSpec) -> None:
    """Compile and load the kernels that a training step of this model takes; on a CPU nothing.

    It only saves time: a kernel that is missed here is compiled when it is launched.
    """
    device: Any = base_of(spec.embed).weight.device
    if device.type == "cuda":
        _compile(kinds_of(spec), device)


def compile_meanwhile(config: Any, dtype: torch.dtype, device: torch.device, *, four_bit: bool) -> None:
    """``compile_ahead`` of a model that is about to be loaded, in a thread of its own; arguments of
    ``kinds_of_config``. Whoever compiles next waits for it."""
    kinds = kinds_of_config(config, dtype, four_bit=four_bit) if device.type == "cuda" else None
    if kinds is not None:
        threading.Thread(target=_start, args=(kinds, device), name="whet-kernels").start()


def _start(kinds: Kinds, device: torch.device) -> None:
    with torch.cuda.device(device):
        if not triton_problem():
            _compile(kinds, device)


def _compile(kinds: Kinds, device: torch.device) -> None:
    with _ONE_AT_A_TIME:
        try:
            launches = launches_of(kinds)
        except Exception:  # an operation of torch that knows no meta tensors
            return
        compile_all(launches, device, runtime.cores())


def _step(spec: LayerSpec, kinds: Kinds, rows_N: torch.Tensor | None) -> None:
    """Forward and backward of a layer without adapters: their columns change strides by multiples of ``PAD``. What is
    copied to make room for them comes apart."""
    layer = _meta_layer(spec, kinds)
    tables_TC = _empty((TOKENS, spec.rotary_dim // 2), kinds.dtype)
    lengths = (TOKENS,)
    documents = Documents(lengths, torch.empty(2, dtype=torch.int32, device=META), TOKENS)
    batch = Batch(documents, {spec.rope: (tables_TC, tables_TC)})
    x_TD = _empty((TOKENS, spec.hidden), kinds.dtype)
    y_ND, kept = layer_forward(x_TD, layer, batch, rows_N)
    if kinds.adapters:
        for rows_NK in (kept["o"].flatten(1), x_TD) if not spec.post_norms else (kept["o"].flatten(1),):
            with_columns(rows_NK, PAD["cuda"])
    layer_backward(torch.empty_like(y_ND), kept, layer, batch, rows_N)


def _meta_layer(spec: LayerSpec, kinds: Kinds) -> Layer:
    def norm(width: int, there: bool = True) -> Any:
        return _empty((width,), kinds.norms).requires_grad_(kinds.norms_trained) if there else None

    groups = {name: [_Linear(*spec.sizes(name), kinds.dtype)] for name in GROUPS}
    parts = LayerParts(
        norm(spec.hidden),
        norm(spec.hidden),
        groups,  # type: ignore[arg-type]
        norm(spec.hidden, spec.post_norms),
        norm(spec.hidden, spec.post_norms),
        norm(spec.head_dim, spec.qk_norm),
        norm(spec.head_dim, spec.qk_norm),
    )
    return Layer(spec, parts, *(Group(groups[name], kinds.dtype) for name in GROUPS))


class _Linear:
    """A frozen linear layer without numbers, as ``Group`` reads it."""

    bias = None

    def __init__(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        self.out_features, self.in_features = outputs, inputs
        self.weight = _empty((outputs, inputs), dtype)


def _layer_of(shape: Shape, values: Mapping[str, Any], activation: Activation) -> LayerSpec:
    """A layer as far as kernels depend on it: they do not on windows, caps and scales of attention."""
    rope = values.get("rope_parameters") or {}
    rotated = values.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0
    return LayerSpec(
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        mlp=shape.mlp,
        eps=1e-6,
        norm_offset=1 if str(values.get("model_type")).startswith("gemma") else 0,
        activation=activation,
        qk_norm=shape.qk_norm,
        post_norms=shape.post_norms,
        softcap=None,
        window=None,
        scale=1.0,
        rotary_dim=int(shape.head_dim * rotated),
        rope="global",
    )


def _packed_weights(shape: Shape, dtype: torch.dtype) -> list[Nf4Weight]:
    """The projections as ``load_in_4bit`` packs them."""
    sizes = [(outputs, shape.size(group)[1]) for group in GROUPS for outputs in shape.widths(group)]
    nested = NestedAbsmax(_empty((256,), torch.float32), _empty((1,), torch.float32), _empty((), torch.float32))
    bytes_and_scales = [
        (_empty((n * k // 2,), torch.uint8), _empty((n * k // NF4_BLOCK,), torch.uint8)) for n, k in sizes
    ]
    return [Nf4Weight(*both, size, dtype, nested=nested) for size, both in zip(sizes, bytes_and_scales, strict=True)]


def _dequantise(weight: Nf4Weight, dtype: torch.dtype) -> None:
    outputs, inputs = weight.shape
    dequantise_nf4(weight, _empty((outputs, inputs + PAD["cuda"]), dtype)[:, :inputs])


def _refresh(adapter: torch.dtype, operand: torch.dtype) -> None:
    from whet.engine.kernels import scatter_triton

    copy = (_empty((PAD["cuda"], PAD["cuda"]), operand), _empty((PAD["cuda"], PAD["cuda"]), adapter), 1.0)
    for table in scatter_triton.tables([copy], BLOCK):
        scatter_triton.run(table, BLOCK)


def _ends(kinds: Kinds) -> None:
    """The final norm and the loss."""
    first = kinds.layers[0]
    x_ND, weight_D = _empty((TOKENS, first.hidden), kinds.dtype), _empty((first.hidden,), kinds.norms)
    y_ND, rstd_N = rms_norm(x_ND, weight_D, first.eps, first.norm_offset)
    dweight_D = torch.zeros_like(weight_D, dtype=torch.float32) if kinds.norms_trained else None
    rms_norm_backward(torch.empty_like(y_ND), x_ND, weight_D, rstd_N, first.norm_offset, dweight=dweight_D)
    if kinds.vocab is not None:
        _loss(kinds, kinds.vocab)


def _loss(kinds: Kinds, vocab: int) -> None:
    targets_N = torch.empty(TOKENS, dtype=torch.int64, device=META)
    logits_NV = _empty((TOKENS, vocab), kinds.dtype)
    if not kinds.head_trained:
        cross_entropy_rows_(logits_NV, targets_N, softcap=kinds.softcap)
        return
    lse_N = _empty((TOKENS,), torch.float32)
    cross_entropy_rows(logits_NV, targets_N, softcap=kinds.softcap, lse_N=lse_N)
    rows = -(-vocab // ALIGNMENT) * ALIGNMENT  # as far apart as in the backward
    for width in {vocab, min(vocab, ALIGNMENT)}:  # the last slice ends with the vocabulary
        slice_Nv = _empty((TOKENS, rows), kinds.dtype)[:, :width]
        cross_entropy_slice_(slice_Nv, targets_N, lse_N, 0, softcap=kinds.softcap)


def _form(weight: Nf4Weight) -> tuple[Any, ...]:
    return weight.shape, weight.dtype, weight.block, weight.nested is None or weight.nested.block, weight.nested is None


def _like(weight: Nf4Weight) -> Nf4Weight:
    """The same weight without its numbers."""
    nested = weight.nested
    if nested is not None:
        nested = NestedAbsmax(_meta(nested.code), _meta(nested.absmax), _meta(nested.offset), nested.block)
    return replace(weight, packed=_meta(weight.packed), absmax=_meta(weight.absmax), nested=nested)


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device=META)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)
