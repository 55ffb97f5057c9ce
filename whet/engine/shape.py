"""A model as the numbers that memory and time depend on; from a config.json alone, or from a model that was read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from whet.engine.lora import base_of, lora_of
from whet.engine.spec import GROUPS, GroupName

if TYPE_CHECKING:
    from whet.engine.spec import ModelSpec

Storage = Literal["dense", "nf4", "streamed"]

# model_type in a config.json -> what its layers have beside the common parts.
FAMILIES: dict[str, frozenset[str]] = {
    "llama": frozenset(),
    "mistral": frozenset(),
    "qwen2": frozenset({"bias"}),
    "qwen3": frozenset({"qk_norm"}),
    "gemma2": frozenset({"post_norms"}),
    "gemma3_text": frozenset({"post_norms", "qk_norm"}),
    "phi3": frozenset({"fused"}),
}
MODULES: dict[GroupName, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
FUSED: dict[GroupName, tuple[str, ...]] = {**MODULES, "qkv": ("self_attn.qkv_proj",), "gate_up": ("mlp.gate_up_proj",)}


class FullTraining(NamedTuple):
    """How the weights themselves are trained.

    Attributes:
        moment: bytes of the optimizer's state for one parameter; 8 are AdamW's.
        beside: bytes that the optimizer makes in its step, at most, and frees again.
        embedding: as ``moment``, for a parameter of the embedding, which 8-bit optimizers keep exact; None: the same.
    """

    moment: int = 8
    beside: int = 0
    embedding: int | None = None


@dataclass(frozen=True)
class Shape:
    """One decoder-only model with equal layers.

    Attributes:
        hidden, heads, kv_heads, head_dim, mlp, layers, vocab: as in ``LayerSpec`` and ``ModelSpec``.
        ranks: LoRA ranks of each group's modules, in the order of ``spec.GROUPS``; 0 for a module without an adapter.
        tied: embedding and head are one tensor.
        storage: of the weights of the layers (``whet/engine/storage.py``); embedding and head are dense.
        width: bytes of a dense weight and of an activation.
        pad: the sum of a group's ranks is padded to a multiple of this (``weights.PAD``).
        qk_norm, post_norms: as in ``LayerSpec``. bias: q, k and v have biases.
        window: width of the attention window of ``windowed`` layers; None: no layer has one.
        full: all weights are trained; None: they are frozen, only adapters are trained.
        scores: the model scores texts: it has one linear output in place of a head for words.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    layers: int
    vocab: int
    ranks: tuple[tuple[int, ...], ...]
    tied: bool = False
    storage: Storage = "dense"
    width: int = 2
    pad: int = 64
    qk_norm: bool = False
    post_norms: bool = False
    bias: bool = False
    window: int | None = None
    windowed: int = 0
    full: FullTraining | None = None
    scores: bool = False

    @property
    def tables(self) -> int:
        """Matrices of vocabulary x hidden elements: embedding and head."""
        return 1 if self.tied or self.scores else 2

    @property
    def attended(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim

    def size(self, group: GroupName) -> tuple[int, int]:
        """Outputs N and inputs K of a group."""
        return {
            "qkv": (self.attended + 2 * self.keys, self.hidden),
            "o": (self.hidden, self.attended),
            "gate_up": (2 * self.mlp, self.hidden),
            "down": (self.hidden, self.mlp),
        }[group]

    def widths(self, group: GroupName) -> tuple[int, ...]:
        """Outputs of each module of a group."""
        outputs, _ = self.size(group)
        parts = self.ranks[GROUPS.index(group)]
        if len(parts) == 1:
            return (outputs,)
        return (self.attended, self.keys, self.keys) if group == "qkv" else (self.mlp, self.mlp)

    def columns(self, group: GroupName) -> int:
        """LoRA columns R of a group, padded; 0 without adapters."""
        return -(-sum(self.ranks[GROUPS.index(group)]) // self.pad) * self.pad

    @property
    def layer_weights(self) -> int:
        """Elements of one layer's projections."""
        return sum(outputs * inputs for outputs, inputs in map(self.size, GROUPS))

    @property
    def layer_adapters(self) -> int:
        """Trainable elements of one layer: r (K + N) for each module with an adapter."""
        return self.adapters_of(*GROUPS)

    def adapters_of(self, *groups: GroupName) -> int:
        """``layer_adapters`` of some groups."""
        return sum(
            rank * (self.size(group)[1] + outputs)
            for group in groups
            for rank, outputs in zip(self.ranks[GROUPS.index(group)], self.widths(group), strict=True)
        )

    @property
    def norms(self) -> int:
        """Norm weights of one layer."""
        return self.hidden * (4 if self.post_norms else 2) + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def layer_parameters(self) -> int:
        """Elements of one layer without adapters: projections, biases, norms."""
        return self.layer_weights + self.norms + (self.size("qkv")[0] if self.bias else 0)

    @property
    def parameters(self) -> int:
        """Elements of the whole model without adapters; a tied embedding counts once."""
        ends = self.tables * self.vocab * self.hidden + self.hidden * (2 if self.scores else 1)
        return self.layers * self.layer_parameters + ends


def shape_of_config(
    config: Any,
    *,
    rank: int,
    targets: Sequence[str] | str = "all-linear",
    storage: Storage = "dense",
    width: int = 2,
    pad: int = 64,
    full: FullTraining | None = None,
) -> Shape | str:
    """The shape of a model that is not loaded; or one sentence why the plan does not know it.

    Args:
        config: the mapping in a config.json, or an object with its keys as attributes.
        rank: LoRA rank of every target; 0: no adapters.
        targets: as PEFT takes them: names, one regular expression over whole module names, or "all-linear".
        full: as in ``Shape``.
    """
    values = _text_part(config)
    family = str(values.get("model_type", ""))
    traits = FAMILIES.get(family)
    if traits is None:
        return f"models of the type {family or 'without a name'} are not known; known: {', '.join(FAMILIES)}"
    modules = FUSED if "fused" in traits else MODULES
    heads, hidden, layers = values["num_attention_heads"], values["hidden_size"], values["num_hidden_layers"]
    window, windowed = _windows(values, family, layers)
    return Shape(
        hidden=hidden,
        heads=heads,
        kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or hidden // heads,
        mlp=values["intermediate_size"],
        layers=layers,
        vocab=values["vocab_size"],
        ranks=tuple(tuple(rank if _targeted(name, targets) else 0 for name in modules[group]) for group in GROUPS),
        tied=bool(values.get("tie_word_embeddings", family.startswith("gemma"))),
        storage=storage,
        width=width,
        pad=pad,
        qk_norm="qk_norm" in traits,
        post_norms="post_norms" in traits,
        bias="bias" in traits or bool(values.get("attention_bias")),
        window=window,
        windowed=windowed,
        full=full,
    )


def shape_of_model(model: ModelSpec, *, storage: Storage = "dense", width: int = 2, pad: int = 64) -> Shape:
    """The shape of a model that was read (``read_model``): numbers and ranks are those of its first layer. Where its
    projections' weights are trained themselves, all weights of the model count as trained."""
    numbers, parts = model.layers[0]
    ranks = []
    for group in GROUPS:
        loras = [lora_of(module) for module in parts.groups[group]]
        ranks.append(tuple(int(lora.A.shape[0]) if lora is not None else 0 for lora in loras))
    windows = [spec.window for spec, _ in model.layers if spec.window is not None]
    head, embedding = base_of(model.head).weight, base_of(model.embed).weight
    bases = [base_of(module) for group in GROUPS for module in parts.groups[group]]
    return Shape(
        hidden=numbers.hidden,
        heads=numbers.heads,
        kv_heads=numbers.kv_heads,
        head_dim=numbers.head_dim,
        mlp=numbers.mlp,
        layers=len(model.layers),
        vocab=model.vocab,
        ranks=tuple(ranks),
        tied=head is embedding,
        storage=storage,
        width=width,
        pad=pad,
        qk_norm=numbers.qk_norm,
        post_norms=numbers.post_norms,
        bias=any(getattr(base_of(module), "bias", None) is not None for module in parts.groups["qkv"]),
        window=windows[0] if windows else None,
        windowed=len(windows),
        full=FullTraining() if any(base.weight.requires_grad for base in bases) else None,
        scores=head is not embedding and head.data_ptr() == embedding.data_ptr(),  # scores.WriterView
    )


def _text_part(config: Any) -> Mapping[str, Any]:
    """The keys of the language model: models that also see keep them apart."""
    values = config if isinstance(config, Mapping) else config.to_dict()
    inner = values.get("text_config")
    return {**inner, "tie_word_embeddings": values.get("tie_word_embeddings", True)} if inner else values


def _windows(values: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, int]:
    """Width of the attention window, and how many layers have it."""
    window = values.get("sliding_window")
    if not window or values.get("use_sliding_window") is False:
        return None, 0
    kinds = values.get("layer_types")
    if kinds:
        windowed = sum(kind == "sliding_attention" for kind in kinds)
    elif family == "gemma2":
        windowed = (layers + 1) // 2
    elif family == "gemma3_text":
        windowed = layers - layers // int(values.get("sliding_window_pattern") or 6)
    else:
        windowed = layers
    return (int(window), windowed) if windowed else (None, 0)


def _targeted(name: str, targets: Sequence[str] | str) -> bool:
    """Whether PEFT would give this module of a layer an adapter."""
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, f"model.layers.0.{name}") is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
