"""A LoRA adapter as a GGUF of its own, for llama.cpp's ``--lora`` (its src/llama-adapter.cpp reads it).

Each changed matrix has ``<name>.lora_a`` [rank, in] and ``<name>.lora_b`` [out, rank]; llama.cpp adds
``alpha / rank * B A``. There is one alpha in a file: where the adapter has several, or rsLoRA, B takes up what is left.
"""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import torch

from whet.console import output_errors
from whet.errors import ExportError
from whet.export.families import Config, Family, family_of, read_config
from whet.export.lora import AdapterSource, Factors
from whet.export.tensors import EMBEDDING, HEAD, LanguageModel

ADAPTER_QUANTS = {"f32": torch.float32, "f16": torch.float16}
DEFAULT_QUANT = "f32"
INSTEAD = "write the whole model: --to gguf or --to merged"


def write_adapter_gguf(source: AdapterSource, out_path: Path | str, quant: str = DEFAULT_QUANT, *, name: str) -> Path:
    """Write the adapter beside ``out_path``, then rename it into place.

    Args:
        quant: ``f32`` or ``f16``, the type of A and B.
        name: ``general.name``.

    Raises:
        ExportError: an architecture, or a part of the adapter, that this format has no place for.
        OutputError: the disk is full or the place not writable.
    """
    if quant not in ADAPTER_QUANTS:
        raise ExportError(f"an adapter as {quant}", f"one of {', '.join(ADAPTER_QUANTS)}", "name one of these")
    family = family_of(source.config)
    _refuse_what_has_no_place(source)
    target = Path(out_path)
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(source, family, part, ADAPTER_QUANTS[quant], name)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    return target


def _refuse_what_has_no_place(source: AdapterSource) -> None:
    """Whole weights, DoRA, and changes of a matrix that is both embedding and head in the file."""
    factors = source.factors
    if source.replaced:
        raise ExportError(
            f"the adapter holds {source.replaced[0]} whole, and a GGUF of an adapter has A and B only",
            "an adapter without modules_to_save and trained biases",
            INSTEAD,
        )
    if any(item.lengths_O is not None for item in factors.values()):
        raise ExportError("a DoRA adapter has lengths beside A and B, which llama.cpp does not read", "LoRA", INSTEAD)
    tied = bool(source.base.config.get("tie_word_embeddings"))
    if tied and {EMBEDDING, HEAD} & set(factors):
        raise ExportError(
            "the adapter changes the embedding or the head of a model that has one matrix for both",
            "an adapter on other layers",
            INSTEAD,
        )


def _write(source: AdapterSource, family: Family, path: Path, dtype: torch.dtype, name: str) -> None:
    config = read_config(source.config)
    names = gguf.get_tensor_name_map(family.arch, config["num_hidden_layers"])
    alpha = float(source.adapter["lora_alpha"])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[family.arch])
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(" ".join(name.split()) or "adapter")
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for weight, factors in sorted(source.factors.items()):
            place = names.get_name(weight.replace(LanguageModel.PREFIX, "model.", 1), try_suffixes=(".weight",))
            if place is None:
                raise ExportError(f"the weight {weight} has no place in a GGUF of {config['architectures'][0]}")
            a, b = _factors(source, family, config, weight, factors)
            writer.add_tensor(f"{place}.lora_a", _array(a, dtype))
            writer.add_tensor(f"{place}.lora_b", _array(b, dtype))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _factors(
    source: AdapterSource, family: Family, config: Config, weight: str, factors: Factors
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B as llama.cpp wants them: rows of B in the order of the file's weight, B scaled for the one alpha."""
    rank = factors.a_RI.shape[0]
    b_OR = factors.b_OR.float() * (source.scaling(weight) * rank / source.adapter["lora_alpha"])
    if factors.embedding:  # llama.cpp looks A up by token
        return factors.a_RI.float().T, b_OR
    if source.adapter.get("fan_in_fan_out"):
        raise ExportError(f"{weight} is stored turned (fan_in_fan_out)", "a linear layer", INSTEAD)
    return factors.a_RI.float(), family.change(weight, b_OR, config)


def _array(tensor: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    return tensor.to(dtype).contiguous().numpy()
