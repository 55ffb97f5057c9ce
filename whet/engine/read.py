"""Reads a loaded transformers model, plain or with PEFT's LoRA, into a ``ModelSpec``; by structure, not by class name.

Read: Llama, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3 (text), Phi-3, SmolLM, and whatever else has the same parts. Norms
and activations are recognised by what they compute on a few numbers, everything else by attribute names and shapes. A
part that is not known makes the model unsupported: the reason is what a user is told. Arithmetic between the parts (a
model that scales its residual, say) cannot be seen here: ``whet.engine.check`` compares the results.
"""

from __future__ import annotations

from typing import Any

import torch

from whet.engine.lora import base_of, lora_of, lora_problem, peeled
from whet.engine.probe import activation_of, norm_of
from whet.engine.quantised import read_nf4
from whet.engine.spec import GROUPS, LayerParts, LayerSpec, ModelSpec, Rope, Tables, Unsupported

WINDOWED = "sliding_attention"
LAYER_TYPES = (None, "full_attention", WINDOWED)
PRE_NORMS = {"input_layernorm", "post_attention_layernorm"}
ALL_NORMS = PRE_NORMS | {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "q_norm", "k_norm"}
MLP = {"gate_proj", "up_proj", "gate_up_proj", "down_proj", "act_fn", "activation_fn"}
DENSE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class _Unknown(Exception):
    """Its text is the reason; it never leaves this file."""


def read_model(model: Any, *, training: bool = True) -> ModelSpec | Unsupported:
    """The parts of a causal language model, or why the engine cannot run it. Changes nothing, keeps no copies.

    Args:
        training: False for inference, where neither dropout nor what is trained matters.
    """
    try:
        return _read(peeled(model), training)
    except _Unknown as unknown:
        return Unsupported(str(unknown))


def _read(causal: Any, training: bool) -> ModelSpec:
    body: Any = getattr(causal, "model", None)
    head: Any = getattr(causal, "lm_head", None)
    for name in ("embed_tokens", "layers", "norm", "rotary_emb"):
        if not hasattr(body, name):
            raise _Unknown(f"{type(causal).__name__} has no model.{name}")
    if head is None or not len(body.layers):
        raise _Unknown(f"{type(causal).__name__} has no lm_head or no layers")
    table: Any = base_of(body.embed_tokens)
    devices = {str(weight.device) for weight in causal.parameters()}
    if "meta" in devices:
        raise _Unknown("its weights are not loaded")
    elsewhere = devices - {str(table.weight.device)}
    if elsewhere and not (training and elsewhere == {"cpu"}):
        raise _Unknown(f"its weights are on {sorted(devices)}")
    rotary_dims = _rotary_dims(body.rotary_emb, table.weight.device)
    layers = []
    for index, layer in enumerate(body.layers):
        try:
            layers.append(_layer(layer, body.config, index, rotary_dims, training))
        except _Unknown as unknown:
            raise _Unknown(f"layer {index}: {unknown}") from None
    if elsewhere:
        _check_streamed(causal, layers, table.weight.device)
    offset, eps = _norm(body.norm, "the last norm")
    _check_head(head)
    for module in (module for _, parts in layers for module in parts.modules()):
        for weight in _linear(module).parameters() if training else ():
            if weight.requires_grad and weight.dtype != table.weight.dtype:
                raise _Unknown(f"weights of {weight.dtype} are trained, and its embedding is {table.weight.dtype}")
    return ModelSpec(
        layers=layers,
        embed=body.embed_tokens,
        embed_scale=_embed_scale(table),
        final_norm=body.norm.weight,
        final_norm_offset=offset,
        final_norm_eps=eps,
        head=head,
        logit_softcap=getattr(body.config, "final_logit_softcapping", None),
        rotary=lambda positions_BT, dtype: _tables(body.rotary_emb, positions_BT, dtype),
        vocab=_linear(head).out_features,
    )


def _layer(
    layer: Any, config: Any, index: int, rotary_dims: dict[str, int], training: bool
) -> tuple[LayerSpec, LayerParts]:
    norms = {name for name, child in layer.named_children() if name.endswith("norm")}
    if norms not in (PRE_NORMS, ALL_NORMS) or not hasattr(layer, "self_attn") or not hasattr(layer, "mlp"):
        raise _Unknown(f"its parts are {', '.join(sorted(name for name, _ in layer.named_children()))}")
    attention, mlp, post = layer.self_attn, layer.mlp, norms == ALL_NORMS
    _only_known(layer, norms | {"self_attn", "mlp"}, training)
    _only_known(attention, ATTENTION, training)
    _only_known(mlp, MLP, training)
    offset_eps = _layer_norms(layer)
    groups = {
        "qkv": _group(attention, "qkv_proj", ("q_proj", "k_proj", "v_proj"), training),
        "o": _group(attention, "o_proj", ("o_proj",), training),
        "gate_up": _group(mlp, "gate_up_proj", ("gate_proj", "up_proj"), training),
        "down": _group(mlp, "down_proj", ("down_proj",), training),
    }
    if training:
        _only_known_trained(layer, groups)
    weights = {name: getattr(layer, name).weight for name in norms}
    parts = LayerParts(
        input_norm=weights["input_layernorm"],
        pre_mlp_norm=weights["pre_feedforward_layernorm" if post else "post_attention_layernorm"],
        groups=groups,
        post_attention_norm=weights["post_attention_layernorm"] if post else None,
        post_mlp_norm=weights["post_feedforward_layernorm"] if post else None,
        q_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
        k_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
    )
    kind = _layer_type(attention, config, index)
    return _spec(layer, parts, offset_eps, kind, rotary_dims, training), parts


def _spec(
    layer: Any,
    parts: LayerParts,
    offset_eps: tuple[int, float],
    kind: str | None,
    rotary_dims: dict[str, int],
    training: bool,
) -> LayerSpec:
    attention, mlp, config = layer.self_attn, layer.mlp, layer.self_attn.config
    softcap = getattr(attention, "attn_logit_softcapping", None)
    if not getattr(attention, "is_causal", True):
        raise _Unknown("its attention is not causal")
    dropout: float = getattr(attention, "attention_dropout", 0.0)
    if training and dropout:
        raise _Unknown(f"attention dropout is {dropout}, not 0")
    if not getattr(attention, "use_rope", True):
        raise _Unknown("its attention has no rotation (use_rope is off)")
    if (getattr(config, "rope_parameters", None) or {}).get("llama_4_scaling_beta"):
        raise _Unknown("its attention scales queries by their position")
    if softcap is not None and parts.q_norm is not None:
        raise _Unknown("capped scores together with norms of q and k")
    rope: Rope = "local" if "local" in rotary_dims and kind == WINDOWED else "global"
    activation = activation_of(getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None))
    if activation is None:
        raise _Unknown("its activation is neither SiLU nor GELU by tanh")
    hidden, (heads, kv_heads, head_dim) = parts.input_norm.shape[0], _heads(attention, parts)
    spec = LayerSpec(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=_linear(parts.groups["down"][0]).in_features,
        eps=offset_eps[1],
        norm_offset=offset_eps[0],
        activation=activation,
        qk_norm=parts.q_norm is not None,
        post_norms=parts.post_mlp_norm is not None,
        softcap=softcap,
        window=_window(attention, config, kind),
        scale=float(attention.scaling),
        rotary_dim=rotary_dims.get(rope, 0),
        rope=rope,
    )
    _check_sizes(spec, parts)
    return spec


def _group(parent: Any, fused: str, separate: tuple[str, ...], training: bool) -> list[torch.nn.Module]:
    names = (fused,) if hasattr(parent, fused) else separate
    found: list[torch.nn.Module] = []
    kinds = set()
    for name in names:
        module = getattr(parent, name, None)
        if module is None:
            raise _Unknown(f"it has no {name}")
        if problem := lora_problem(module, training=training):
            raise _Unknown(f"{name}: {problem}")
        kinds.add(_storage(base_of(module), name))
        found.append(module)
    if len(kinds) > 1:
        raise _Unknown(f"of {', '.join(names)} some are quantised and some are not")
    return found


def _storage(base: Any, name: str) -> str:
    """ "dense" or "nf4"."""
    if not isinstance(base, torch.nn.Linear):
        raise _Unknown(f"{name}: {type(base).__name__} is no linear layer")
    if base.weight.dtype in DENSE and base.weight.dim() == 2 and not hasattr(base.weight, "quant_state"):
        return "dense"
    packed = read_nf4(base)
    if isinstance(packed, str):
        raise _Unknown(f"{name}: {packed} ({type(base).__name__}, {base.weight.dtype})")
    return "nf4"


def _only_known(parent: Any, known: set[str], training: bool) -> None:
    """Parts without numbers of their own may stand there, unless they drop something."""
    for name, child in parent.named_children():
        if isinstance(child, torch.nn.Dropout) and child.p > 0 and training:
            raise _Unknown(f"dropout {name} is {child.p}, not 0")
        if name not in known and (any(True for _ in child.parameters()) or any(True for _ in child.buffers())):
            raise _Unknown(f"it has a part {name}, which is not known")
    for name, _ in parent.named_parameters(recurse=False):
        raise _Unknown(f"it has weights {name}, which are not known")


def _only_known_trained(layer: torch.nn.Module, groups: dict[str, list[torch.nn.Module]]) -> None:
    """Adapters, norms, and groups whose weights and biases are all trained, without adapters."""
    known: set[int] = set()
    for modules in groups.values():
        adapters = [lora_of(module) for module in modules]
        known |= {id(weight) for lora in adapters if lora is not None for weight in (lora.A, lora.B)}
        own = [weight for module in modules for weight in base_of(module).parameters()]
        if not any(adapters) and all(weight.requires_grad for weight in own):
            known |= {id(weight) for weight in own}
    for name, weight in layer.named_parameters():
        norm = name.split(".")[-2] in ALL_NORMS | {"q_norm", "k_norm"}
        if weight.requires_grad and not norm and id(weight) not in known:
            raise _Unknown(f"{name} is trained, and its projection has adapters or frozen weights as well")


def _layer_norms(layer: Any) -> tuple[int, float]:
    """Offset and eps, which all norms of a layer must share."""
    named = [(name, child) for name, child in layer.named_children() if name in ALL_NORMS]
    named += [(name, child) for name, child in layer.self_attn.named_children() if name in ("q_norm", "k_norm")]
    found = {_norm(child, name) for name, child in named}
    if len(found) > 1:
        raise _Unknown("its norms differ in kind or eps")
    return found.pop()


def _norm(norm: Any, name: str) -> tuple[int, float]:
    if problem := lora_problem(norm):
        raise _Unknown(f"{name}: {problem}")
    found = norm_of(norm)
    if found is None:
        raise _Unknown(f"{name}: {type(norm).__name__} is no RMS norm as Llama or Gemma has")
    return found


def _layer_type(attention: Any, config: Any, index: int) -> str | None:
    types = getattr(config, "layer_types", None)
    kind = getattr(attention, "layer_type", None) or (types[index] if types else None)
    if kind not in LAYER_TYPES:
        raise _Unknown(f"its attention is of the kind {kind}")
    return kind


def _window(attention: Any, config: Any, kind: str | None) -> int | None:
    """The attention's own attribute; without one, what the config's class declares (Mistral, Phi-3: every layer)."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window
    declared = hasattr(type(config), "sliding_window") and kind in (None, WINDOWED)
    return getattr(config, "sliding_window", None) if declared else None


def _heads(attention: Any, parts: LayerParts) -> tuple[int, int, int]:
    """Query heads, key/value heads, head size; from the projections' widths."""
    head_dim, per_group = attention.head_dim, attention.num_key_value_groups
    attended = _linear(parts.groups["o"][0]).in_features
    heads = attended // head_dim
    return heads, heads // per_group, head_dim


def _linear(module: torch.nn.Module) -> Any:
    """A layer that ``_group`` or ``_check_head`` found to be linear."""
    return base_of(module)


def _check_sizes(spec: LayerSpec, parts: LayerParts) -> None:
    for name in GROUPS:
        bases = [_linear(module) for module in parts.groups[name]]
        found = sum(base.out_features for base in bases), {base.in_features for base in bases}
        outputs, inputs = spec.sizes(name)
        if found != (outputs, {inputs}):
            raise _Unknown(f"{name} has {found[0]} outputs of {sorted(found[1])} inputs, not {outputs} of {inputs}")
    if not 0 < spec.rotary_dim <= spec.head_dim:
        raise _Unknown(f"the rotation is of {spec.rotary_dim} elements, a head has {spec.head_dim}")
    for norm in (parts.q_norm, parts.k_norm):
        if norm is not None and norm.shape != (spec.head_dim,):
            raise _Unknown(f"norms of q and k have the shape {tuple(norm.shape)}, a head has {spec.head_dim} elements")


def _check_streamed(causal: Any, layers: list[tuple[LayerSpec, LayerParts]], device: torch.device) -> None:
    """Only frozen dense weights of projections may lie elsewhere than the embedding, in main memory, and in its dtype:
    they are not converted on their way."""
    dtype = _linear(causal.model.embed_tokens).weight.dtype
    weights = [_linear(module).weight for _, parts in layers for module in parts.modules()]
    streamed = {id(weight) for weight in weights if weight.is_floating_point() and not weight.requires_grad}
    for name, weight in causal.named_parameters():
        if weight.device != device and id(weight) not in streamed:
            raise _Unknown(f"{name} is on {weight.device}, its embedding on {device}")
        if weight.device != device and weight.dtype != dtype:
            raise _Unknown(f"{name} is {weight.dtype} in main memory, its embedding {dtype}")


def _check_head(head: Any) -> None:
    if lora_problem(head) == "" and not isinstance(base_of(head), torch.nn.Linear):
        raise _Unknown(f"its head is a {type(base_of(head)).__name__}")


def _embed_scale(embed: Any) -> float:
    scale = getattr(embed, "embed_scale", None)
    return 1.0 if scale is None else float(torch.as_tensor(scale).to(embed.weight.dtype))


def _tables(rotary: Any, positions_BT: torch.Tensor, dtype: torch.dtype) -> Tables:
    return {name: (_half(cos), _half(sin)) for name, (cos, sin) in _whole_tables(rotary, positions_BT, dtype).items()}


def _whole_tables(rotary: Any, positions_BT: torch.Tensor, dtype: torch.dtype) -> Tables:
    """What the model's own module gives, (B, T, 2 C) each. Gemma 3's holds a table for each kind of layer."""
    like = torch.empty(0, dtype=dtype, device=positions_BT.device)
    if not isinstance(getattr(rotary, "rope_type", None), dict):
        pair = rotary(like, positions_BT)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise _Unknown(f"{type(rotary).__name__} gives no cosines and sines")
        return {"global": pair}
    names = {"global": "full_attention", "local": WINDOWED}
    kinds = {name: kind for name, kind in names.items() if kind in rotary.rope_type}
    return {name: rotary(like, positions_BT, layer_type=kind) for name, kind in kinds.items()}


def _half(table_BTE: torch.Tensor) -> torch.Tensor:
    return table_BTE[..., : table_BTE.shape[-1] // 2].flatten(0, -2).contiguous()


def _rotary_dims(rotary: Any, device: torch.device) -> dict[str, int]:
    """Width of the rotation by Rope; with halves doubled, as ``rotate_half`` needs them."""
    positions_1T = torch.arange(8, device=device)[None]
    for cos_BTE, _ in _whole_tables(rotary, positions_1T, torch.float32).values():
        if not torch.equal(*cos_BTE.chunk(2, -1)):
            raise _Unknown("the rotation turns neighbours, not halves")
    return {name: 2 * cos.shape[-1] for name, (cos, _) in _tables(rotary, positions_1T, torch.float32).items()}
