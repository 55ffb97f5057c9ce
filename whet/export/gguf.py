"""A model as one GGUF file (specification: ggml's docs/gguf.md).

First the plan (every tensor's name, shape and type), then the header, then the tensors one at a time (``streaming``).
The bytes depend on the model and the arguments only.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import gguf
import torch

from whet.console import output_errors
from whet.errors import ExportError, OutputError
from whet.export.families import Config, Family, add_metadata, context_limit, family_of, read_config, rope_tensors
from whet.export.importance import Importance
from whet.export.recipes import Mix, file_type, quant_name, tensor_type
from whet.export.streaming import GgufFile, PlannedTensor, write_tensors
from whet.export.tensors import EMBEDDING, TensorSource, language_model
from whet.export.vocabulary import add_vocabulary, read_vocabulary

HEADER_BYTES = 64 * 2**20  # room to keep free for metadata: a large vocabulary takes about 10 MB


def write_gguf(
    source: TensorSource,
    tokenizer_dir: Path | str,
    out_path: Path | str,
    quant: str,
    *,
    name: str,
    chat_template: str | None = None,
    context_length: int | None = None,
    eot_token: str | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Path:
    """Write a GGUF beside ``out_path``, then rename it into place.

    Args:
        quant: one of ``QUANTS`` or an alias.
        name: ``general.name``.
        chat_template: the Jinja to embed. None takes the tokenizer's own, an empty text embeds none (for a model that
            was not trained with the tokenizer's template).
        context_length: tokens; None, or more than the model can, gives what the model can.
        eot_token: the token that ends a turn, where it is not the tokenizer's eos token.
        on_bytes: called with the bytes written, after each tensor.

    Raises:
        ExportError: an architecture, tokenizer or quantisation that cannot be written.
        OutputError: the disk is full or the place not writable.
    """
    target = Path(out_path)
    write_ggufs(
        source,
        tokenizer_dir,
        {quant_name(quant): target},
        name=name,
        chat_template=chat_template,
        context_length=context_length,
        eot_token=eot_token,
        on_bytes=on_bytes,
    )
    return target


def write_ggufs(
    source: TensorSource,
    tokenizer_dir: Path | str,
    targets: Mapping[str, Path],
    *,
    name: str,
    chat_template: str | None = None,
    context_length: int | None = None,
    eot_token: str | None = None,
    importance: Importance | None = None,
    device: torch.device | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write one file for each quantisation in one pass over the weights; as :func:`write_gguf`.

    Args:
        targets: quantisation -> file. All appear at the end, or none.
        importance: weighs the searches of the block formats.
        device: where tensors are encoded; None takes the GPU where there is one.
    """
    source = language_model(source)
    family = family_of(source.config)
    vocabulary = read_vocabulary(tokenizer_dir, source.shape(EMBEDDING)[0], eot_token, chat_template)
    limit = context_limit(source.config)
    context = min(context_length or limit, limit)
    plans = {quant: plan_tensors(source, family, quant, importance) for quant in targets}
    parts = {quant: target.with_name(f".{target.name}.part-{os.getpid()}") for quant, target in targets.items()}
    first = next(iter(targets.values()))
    if importance is not None:
        importance.check({tensor.name: tensor.shape for tensor in plans[next(iter(plans))]})
    with output_errors(first):
        first.parent.mkdir(parents=True, exist_ok=True)
        _check_room(first, sum(tensor.written_bytes for plan in plans.values() for tensor in plan))
        try:
            files = []
            for quant, plan in plans.items():
                writer = gguf.GGUFWriter(parts[quant], gguf.MODEL_ARCH_NAMES[family.arch])
                _add_header(writer, source, quant, safe_name(name, vocabulary.strips), context)
                if importance is not None:
                    importance.add_metadata(writer)
                add_vocabulary(writer, vocabulary)
                files.append(GgufFile(writer, plan, targets[quant]))
            write_tensors(files, importance, device or _encoding_device(), on_bytes)
            for quant, target in targets.items():
                os.replace(parts[quant], target)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)


def tensor_bytes(source: TensorSource, quants: Iterable[str], importance: Importance | None = None) -> int:
    """Bytes of all tensors in all quantisations: what ``on_bytes`` will count."""
    source = language_model(source)
    plans = (plan_tensors(source, family_of(source.config), quant, importance) for quant in quants)
    return sum(tensor.written_bytes for plan in plans for tensor in plan)


def _encoding_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plan_tensors(
    source: TensorSource, family: Family, quant: str, importance: Importance | None = None
) -> list[PlannedTensor]:
    """Every tensor of the file, in a fixed order.

    Raises:
        ExportError: a weight that has no place in the format.
    """
    config = read_config(source.config)
    mix = Mix.of(config, gguf.MODEL_ARCH_NAMES[family.arch], importance is not None)
    names = gguf.get_tensor_name_map(family.arch, mix.layers)
    plan = []
    for name in source.names():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ExportError(f"the weight {name} has no place in a GGUF of {config['architectures'][0]}")
        shape = source.shape(name)
        kind = tensor_type(quant, target, shape, mix)
        plan.append(PlannedTensor(target, shape, kind, _reader(source, family, name, config)))
    for name, factors in rope_tensors(config).items():
        kind = gguf.GGMLQuantizationType.F32
        plan.append(PlannedTensor(name, tuple(factors.shape), kind, factors.clone))
    return plan


def _reader(source: TensorSource, family: Family, name: str, config: Config) -> Callable[[], torch.Tensor]:
    return lambda: family.change(name, source.get(name), config)


def safe_name(name: str, like_phi3: bool) -> str:
    """``general.name`` on one line.

    In a model called phi-3, llama.cpp drops white space after special tokens: where the tokenizer does so the name says
    phi-3, and nowhere else.
    """
    cleaned = " ".join(name.split()) or "model"
    if like_phi3:
        return cleaned if re.search(r"(?i)phi-?3", cleaned) else f"{cleaned} (phi-3)"
    return re.sub(r"(?i)phi-?3", "phi_3", cleaned)


def _add_header(writer: gguf.GGUFWriter, source: TensorSource, quant: str, name: str, context: int) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_vocab_size(source.shape(EMBEDDING)[0])
    writer.add_file_type(file_type(quant))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_metadata(writer, read_config(source.config), context)


def _check_room(target: Path, tensor_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    needed = tensor_bytes + HEADER_BYTES
    if free < needed:
        raise OutputError(
            f"the disk is full: {target} needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free",
            fix="free some space, or name another --out",
        )


__all__ = ["PlannedTensor", "plan_tensors", "safe_name", "tensor_bytes", "write_gguf", "write_ggufs"]
