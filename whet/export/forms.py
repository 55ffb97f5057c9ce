"""The forms of an export beside the GGUF of a whole model: merged, adapter, and the adapter as GGUF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whet.errors import ExportError
from whet.export.adapter import Origin
from whet.export.adapter_gguf import DEFAULT_QUANT, write_adapter_gguf
from whet.export.copied import copy_adapter
from whet.export.merged import write_merged
from whet.export.report import ProvedFile
from whet.export.verdict import verdict_path

# name -> the folder that it goes into, in the folder of the model
FORMS = {"gguf": "gguf", "merged": "merged", "adapter": "peft-adapter", "adapter-gguf": "adapter-gguf"}
ADAPTER_STEM = "adapter"


def write_form(
    to: str, origin: Origin, target: Path, quants: Sequence[str], dtype: str, *, name: str
) -> list[ProvedFile]:
    """Write one of these forms.

    Args:
        quants: of an adapter as GGUF.
        dtype: of a merged model.
        name: the model's name in a GGUF.

    Raises:
        ExportError: a form that the model does not have, or that has no place for a part of it.
        OutputError: the disk is full or the place not writable.
    """
    if to == "merged":
        folder = write_merged(origin.source, target, dtype, origin.tokenizer_dir)
        verdict_path(folder).unlink(missing_ok=True)
        size = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
        return [ProvedFile(dtype, folder, None, size)]
    if origin.adapter is None or origin.place.adapter is None:
        raise ExportError(
            f"--to {to}, but this model has no adapter: all of its weights are its own",
            "a run with adapter: lora",
            "export it with --to merged or --to gguf",
        )
    if to == "adapter":
        weights = copy_adapter(origin.place.adapter, origin.tokenizer_dir, target)
        return [ProvedFile("adapter", target, None, weights.stat().st_size)]
    written = []
    for quant in dict.fromkeys(quants or [DEFAULT_QUANT]):
        file = write_adapter_gguf(origin.adapter, target / f"{ADAPTER_STEM}.{quant}.gguf", quant, name=name)
        verdict_path(file).unlink(missing_ok=True)
        written.append(ProvedFile(quant, file, None, file.stat().st_size))
    return written
