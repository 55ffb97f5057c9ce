"""What a decoder-only model is made of, in the few numbers and modules that the engine needs.

``whet/engine/read.py`` fills these from a loaded model. They hold the model's own modules and parameters, no copies.

A layer is

    n1 = norm(x, input_norm)
    q, k, v = qkv(n1)                       # with q_norm and k_norm per head, then the rotation
    a = o(attention(q, k, v))               # causal inside each document
    x2 = x + (norm(a, post_attention_norm) if post_norms else a)
    n2 = norm(x2, pre_mlp_norm)
    gate, up = gate_up(n2)
    m = down(activation(gate) * up)
    y = x2 + (norm(m, post_mlp_norm) if post_norms else m)

B rows of a batch, T tokens, D hidden size, C half of the rotated part of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Activation = Literal["silu", "gelu_tanh"]
Rope = Literal["global", "local"]
GroupName = Literal["qkv", "o", "gate_up", "down"]
Tables = dict[str, tuple[torch.Tensor, torch.Tensor]]  # by Rope: cos_TC, sin_TC

GROUPS: tuple[GroupName, ...] = ("qkv", "o", "gate_up", "down")


@dataclass(frozen=True)
class Unsupported:
    """The engine cannot run this model. ``reason`` is one plain sentence without a full stop."""

    reason: str


@dataclass(frozen=True)
class LayerSpec:
    """The numbers of one decoder layer; layers with equal numbers share kernels and buffers."""

    hidden: int  # D
    heads: int  # query heads
    kv_heads: int  # key/value heads; divides heads
    head_dim: int  # width of one head; heads * head_dim need not be D
    mlp: int  # width of the MLP
    eps: float  # of every norm in the layer
    norm_offset: int  # 0: norms multiply by weight; 1 (Gemma): by 1 + weight, in float32, rounded once
    activation: Activation
    qk_norm: bool  # norms over head_dim on each head of q and k, before the rotation
    post_norms: bool  # norms on the outputs of attention and MLP, before they are added to the residual
    softcap: float | None  # scores become softcap * tanh(scores / softcap); None: as they are
    window: int | None  # position i sees i - window + 1 to i, itself included; None: every earlier position
    scale: float  # scores are q · k * scale
    rotary_dim: int  # the first rotary_dim elements of each head are rotated; 2 * C
    rope: Rope  # which of the model's tables

    def sizes(self, group: GroupName) -> tuple[int, int]:
        """Outputs N and inputs K of a group of projections."""
        attended = self.heads * self.head_dim
        return {
            "qkv": (attended + 2 * self.kv_heads * self.head_dim, self.hidden),
            "o": (self.hidden, attended),
            "gate_up": (2 * self.mlp, self.hidden),
            "down": (self.hidden, self.mlp),
        }[group]


@dataclass
class LayerParts:
    """The parameters and modules of one decoder layer, by their role.

    ``groups["qkv"]`` holds the modules of q, k and v in that order, or one fused module whose outputs stand in that
    order; ``groups["gate_up"]`` the same for gate and up. A module is a linear layer or PEFT's wrapper of one: read it
    through ``whet.engine.lora``.
    """

    input_norm: torch.Tensor  # (D,)
    pre_mlp_norm: torch.Tensor  # (D,)
    groups: dict[str, list[torch.nn.Module]]  # by GroupName
    post_attention_norm: torch.Tensor | None = None  # (D,)
    post_mlp_norm: torch.Tensor | None = None  # (D,)
    q_norm: torch.Tensor | None = None  # (head_dim,)
    k_norm: torch.Tensor | None = None  # (head_dim,)

    def modules(self) -> list[torch.nn.Module]:
        """The projections of all groups."""
        return [module for name in GROUPS for module in self.groups[name]]


@dataclass
class ModelSpec:
    """A whole model: embedding, layers, norm, head.

    ``embed(ids)`` of Gemma's embedding multiplies by ``embed_scale`` itself: call the module, or look up its weight and
    multiply, never both. ``embed`` and ``head`` may share one weight, and may be trained or wrapped by PEFT.
    """

    layers: list[tuple[LayerSpec, LayerParts]]
    embed: torch.nn.Module
    embed_scale: float  # 1, or Gemma's sqrt(D), rounded to the dtype of the embedding as the model does
    final_norm: torch.Tensor  # (D,)
    final_norm_offset: int
    final_norm_eps: float
    head: torch.nn.Module  # D -> V
    logit_softcap: float | None
    # (position_ids_BT, dtype) -> tables of the rotation for all B*T positions, made in float32 by the model's own
    # module and rounded to dtype. They hold the model's attention factor (YaRN, LongRoPE), if it has one.
    rotary: Callable[[torch.Tensor, torch.dtype], Tables]
    vocab: int

    @property
    def hidden(self) -> int:
        return self.layers[0][0].hidden
