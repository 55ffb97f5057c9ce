"""A transformers model whose base weights are read when their turn comes: a proof needs no memory for all of them.

Each decoder layer, the embedding and the head read their weights before they run and give them back after. A PEFT
adapter lies on top, whole and not merged: so this is another way to the trained model than the merge of an export.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError

from whet.errors import ModelError
from whet.export.adapter import Origin
from whet.export.tensors import EMBEDDING, HEAD, TensorSource
from whet.models.adapters import quiet_peft

_WRAPPERS = ("base_layer", "original_module")
_PREFIX = "base_model.model."


def streamed_model(origin: Origin, device: torch.device) -> Any:
    """The trained model in float32, in eval mode, its weights on the disk.

    Raises:
        ModelError: the adapter does not load.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(origin.base.folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.vocab_size = origin.source.config.get("vocab_size", config.vocab_size)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if origin.place.adapter is not None:
        model = _with_adapter(model, str(origin.place.adapter))
    _keep(model, device)
    _read_in_turn(model, origin.base, device)
    return _Placed(model.eval(), device)


class _Placed:
    """The model as a function of ids; ``device`` is where they belong (transformers would say "meta")."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model, self.device = model, device

    def __call__(self, **arguments: Any) -> Any:
        return self._model(**arguments)


def _with_adapter(model: Any, folder: str) -> Any:
    from peft import PeftModel
    from peft.utils import load_peft_weights

    try:
        with quiet_peft():
            wrapped = PeftModel.from_pretrained(model, folder, low_cpu_mem_usage=True)
            _give_factors(wrapped, load_peft_weights(folder, device="cpu"))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the adapter in {folder} does not load: {error}", "a PEFT adapter") from error
    return wrapped


def _give_factors(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """On a base without weights PEFT leaves the factors without theirs."""
    modules = dict(model.named_modules())
    for name, parameter in list(model.named_parameters()):
        if parameter.device.type != "meta" or ".lora_" not in name:
            continue
        saved = name.replace(".default", "")
        owner, _, leaf = name.rpartition(".")
        found = weights[saved] if saved in weights else weights[saved.removesuffix(".weight")]
        modules[owner]._parameters[leaf] = torch.nn.Parameter(found, requires_grad=False)


def _keep(model: Any, device: torch.device) -> None:
    """Put what is there already, adapter and buffers, on the device."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type != "meta":
                module._parameters[name] = torch.nn.Parameter(parameter.to(device, torch.float32), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def _read_in_turn(model: Any, source: TensorSource, device: torch.device) -> None:
    layers = [module for _, module in model.named_modules() if _is_decoder_layer(module, model)]
    inside = {part for layer in layers for part in layer.modules()}
    outside = [module for module in model.modules() if module not in inside and _missing(module)]
    known = set(source.names())
    names = {module: name for name, module in model.named_modules()}
    for unit in [*layers, *outside]:
        parts = unit.modules() if unit in inside else [unit]
        wanted = [(part, leaf, _source_name(names[part], leaf, known)) for part in parts for leaf in _missing(part)]
        _hook(unit, wanted, source, device)


def _hook(unit: Any, wanted: list[tuple[Any, str, str]], source: TensorSource, device: torch.device) -> None:
    def read(*_: Any) -> None:
        for part, leaf, name in wanted:
            part._parameters[leaf] = torch.nn.Parameter(source.get(name).to(device), requires_grad=False)

    def give_back(*_: Any) -> None:
        for part, leaf, _name in wanted:
            part._parameters[leaf] = torch.nn.Parameter(part._parameters[leaf].to("meta"), requires_grad=False)

    unit.register_forward_pre_hook(read)
    unit.register_forward_hook(give_back)


def _missing(module: Any) -> list[str]:
    return [name for name, value in module._parameters.items() if value is not None and value.device.type == "meta"]


def _is_decoder_layer(module: Any, model: Any) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(module).__name__ in (getattr(base, "_no_split_modules", None) or ())


def _source_name(module: str, leaf: str, known: set[str]) -> str:
    parts = module.removeprefix(_PREFIX).split(".")
    name = ".".join([*(part for part in parts if part not in _WRAPPERS), leaf])
    return EMBEDDING if name == HEAD and HEAD not in known else name
