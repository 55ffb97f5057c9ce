"""Compares the engine with a model's own forward before the engine is trusted with it.

``read_model`` goes by structure; a model may still do something between its known parts (scale its residual, rotate
neighbours instead of halves), and a kernel may be wrong on a device nobody has tried. So the engine runs one layer of
each kind, then the whole model, on 64 tokens in three documents, and its distance from the model's own result is
measured in units of the model's own rounding:

- a layer: the model's layer is run again with its weights and input in the next wider dtype. For nine tokens of ten the
  engine may be at most ``LAYER_FACTOR`` times as far from that as the model's layer is in its own dtype, and
  ``FEW_FACTOR`` times that for the others, whose scores may be close to a tie.
- the whole: the model is run again with the output of each layer disturbed by half a unit in its last place. The
  engine's log-probabilities may differ from the model's by ``MODEL_FACTOR`` times what that changes.

T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree

from whet.engine.kernels.norm import rms_norm
from whet.engine.lora import base_of, peeled
from whet.engine.spec import ModelSpec

RunLayer = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]  # (layer, x_TD, position_ids_1T) -> y_TD

LENGTHS = (35, 1, 28)
LAYER_FACTOR, FEW_FACTOR = 3.0, 3.0
MODEL_FACTOR = 6.0
ASSUMED = 2.0  # units in the last place, where a model's own rounding cannot be measured
WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
REPEATABLE = ("eager", "sdpa")  # attention that runs in any dtype


def self_check(spec: ModelSpec, run_layer: RunLayer, model: Any) -> str:
    """ "" where the engine computes what the model computes, else how it differs, as a sentence without a full stop.

    Args:
        run_layer: the engine's layer: (number of the layer, x_TD, position_ids_1T) -> y_TD.
        model: the model that ``spec`` was read from, plain or with PEFT.
    """
    causal: Any = peeled(model)
    ids_1T, positions_1T = _tokens(spec)
    capped = any(layer.softcap is not None for layer, _ in spec.layers)
    with torch.no_grad(), torch.autocast(ids_1T.device.type, enabled=False), _caps_scores(causal, capped):
        calls: list[_Call] = []
        own_TV = _logits(causal, ids_1T, positions_1T, lambda call: calls.append(call))
        for number in {layer: number for number, (layer, _) in reversed(list(enumerate(spec.layers)))}.values():
            ratio = _layer_ratio(causal, calls[number], run_layer(number, calls[number].x_TD, positions_1T))
            if not ratio <= LAYER_FACTOR:  # not a number is too far as well
                return f"layer {number} is off by {ratio:.3g} times the rounding of the model's own layer"
        disturbed_TV = _logits(causal, ids_1T, positions_1T, _disturbed)
        engine_TV = _engine_logits(spec, run_layer, ids_1T, positions_1T)
    targets_T = ids_1T[0].roll(-1)
    far, rounding = (_distance(logits_TV, own_TV, targets_T) for logits_TV in (engine_TV, disturbed_TV))
    if not far <= MODEL_FACTOR * rounding + torch.finfo(own_TV.dtype).eps:
        return f"log-probabilities are off by {far:.3g} on average, {rounding:.3g} would be rounding"
    return ""


@dataclass
class _Call:
    """One call of a decoder layer of the model."""

    layer: torch.nn.Module
    args: tuple[Any, ...]  # after the hidden states
    kwargs: dict[str, Any]
    x_TD: torch.Tensor
    y_TD: torch.Tensor

    def again(self, dtype: torch.dtype) -> torch.Tensor:
        """y_TD with weights, input and tables of a wider dtype."""
        weights = {name: weight.to(self.x_TD.device, dtype) for name, weight in self.layer.named_parameters()}
        args, kwargs = _pytree.tree_map_only(torch.Tensor, lambda t: _wide(t, dtype), (self.args, self.kwargs))
        return _hidden(
            torch.func.functional_call(self.layer, weights, (self.x_TD[None].to(dtype), *args), kwargs)
        ).squeeze(0)


def _layer_ratio(causal: Any, call: _Call, y_TD: torch.Tensor) -> float:
    """The engine's distance from the exact result, in units of the model's own."""
    dtype = call.y_TD.dtype
    wide, single = WIDER.get(dtype), 4 * torch.finfo(torch.float32).eps
    plain = all(torch.is_floating_point(weight) for weight in call.layer.parameters())
    if wide is not None and plain and causal.config._attn_implementation in REPEATABLE:
        exact_TD = call.again(wide).double()
        own_T = (call.y_TD.double() - exact_TD).norm(dim=-1)
    else:  # quantised weights; or float64, in which stock models still round norms and tables to float32
        exact_TD = call.y_TD.double()
        added_T = (exact_TD - call.x_TD.double()).norm(dim=-1)
        own_T = ASSUMED * max(torch.finfo(dtype).eps, single) * (call.x_TD.double().norm(dim=-1) + added_T)
    norm_T = exact_TD.norm(dim=-1)
    usual = (own_T / norm_T).median().clamp_min(max(torch.finfo(dtype).eps / 8, 2 * single))
    far_T = (y_TD.double() - exact_TD).norm(dim=-1)
    ratio_T = far_T / torch.maximum(own_T, usual * norm_T)
    return torch.maximum(ratio_T.quantile(0.9), ratio_T.max() / FEW_FACTOR).item()


def _logits(
    causal: Any, ids_1T: torch.Tensor, positions_1T: torch.Tensor, on_layer: Callable[[_Call], torch.Tensor | None]
) -> torch.Tensor:
    """The model's own logits (T, V), float32 or wider; ``on_layer`` sees each layer and may give another output."""

    def hook(layer: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        y_1TD = _hidden(output)
        x_1TD, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
        others = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        instead = on_layer(_Call(layer, rest, others, x_1TD[0], y_1TD[0]))
        if instead is None:
            return None
        return (instead[None], *output[1:]) if isinstance(output, tuple) else instead[None]

    with ExitStack() as stack:
        for layer in causal.model.layers:
            handle = layer.register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        output = causal(input_ids=ids_1T, position_ids=positions_1T, attention_mask=None, use_cache=False)
    return _at_least_float32(output.logits[0])


def _engine_logits(
    spec: ModelSpec, run_layer: RunLayer, ids_1T: torch.Tensor, positions_1T: torch.Tensor
) -> torch.Tensor:
    x_TD = spec.embed(ids_1T)[0]
    for number in range(len(spec.layers)):
        x_TD = run_layer(number, x_TD, positions_1T)
    x_TD, _ = rms_norm(x_TD, spec.final_norm, spec.final_norm_eps, spec.final_norm_offset)
    logits_TV, cap = _at_least_float32(spec.head(x_TD)), spec.logit_softcap
    return logits_TV if cap is None else cap * torch.tanh(logits_TV / cap)


def _disturbed(call: _Call) -> torch.Tensor:
    """The layer's output, each number half a unit in its last place up or down."""
    y_TD = call.y_TD
    signs_TD = torch.randint(0, 2, y_TD.shape, generator=torch.Generator().manual_seed(1)).to(y_TD.device) * 2 - 1
    eps = max(torch.finfo(y_TD.dtype).eps, torch.finfo(torch.float32).eps)
    return (y_TD.double() * (1 + eps * signs_TD)).to(y_TD.dtype)


def _distance(logits_TV: torch.Tensor, own_TV: torch.Tensor, targets_T: torch.Tensor) -> float:
    """Mean difference of the tokens' log-probabilities."""
    both = (_log_probabilities(logits, targets_T) for logits in (logits_TV, own_TV))
    first_T, second_T = both
    return (first_T - second_T).abs().mean().item()


def _log_probabilities(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
    return logits_TV.log_softmax(-1).gather(1, targets_T[:, None]).squeeze(1)


def _tokens(spec: ModelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """ids_1T spread over the vocabulary, and the positions of three documents."""
    device = base_of(spec.embed).weight.device  # type: ignore[union-attr]
    ids_T = (torch.arange(sum(LENGTHS)) * 7919 + 13) % spec.vocab
    return ids_T[None].to(device), torch.cat([torch.arange(length) for length in LENGTHS])[None].to(device)


@contextmanager
def _caps_scores(causal: Any, needed: bool) -> Iterator[None]:
    """torch's attention does not cap scores; where a model was loaded with it all the same, eager stands in."""
    before = causal.config._attn_implementation
    if not needed or before != "sdpa":
        yield
        return
    causal.config._attn_implementation = "eager"
    try:
        yield
    finally:
        causal.config._attn_implementation = before


def _hidden(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _wide(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if torch.is_floating_point(tensor) else tensor


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
