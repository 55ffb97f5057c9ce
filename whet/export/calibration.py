"""An importance matrix from the user's own texts: what each column of each matrix sees when the model reads them.

As llama.cpp's ``llama-imatrix``: the squared inputs of every linear layer inside the decoder layers are summed over the
tokens. The head is left out there too: it keeps six bits or more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from whet.config import load_config
from whet.console import Progress
from whet.data.formats import FormatSpec, open_records
from whet.data.run_rows import prepare_rows
from whet.data.stream import open_rows
from whet.data.tokens import encode_records
from whet.errors import ExportError
from whet.export.adapter import run_folder_of
from whet.export.importance import Importance

OWN_ROWS = "run"  # what asks for the rows of the run itself
TOKENS = 2**16  # read at most; more change the means little
LONGEST = 512  # tokens read at once
READ = 5_000  # rows of a file that are looked at


@dataclass(frozen=True)
class Texts:
    """Documents as token ids of at most ``LONGEST`` each, and whose they are."""

    documents: list[list[int]]
    what: str

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))


def calibration_texts(asked: Path | str, path: Path | str, tokenizer: Any) -> Texts:
    """Documents spread evenly over the rows, ``TOKENS`` tokens or little more.

    Args:
        asked: ``run`` for the rows of the run; a text file; or a file of rows.
        path: the trained model, as a user names it.

    Raises:
        ExportError: no text there.
        DataError: rows that cannot be read.
    """
    if str(asked) == OWN_ROWS:
        rows, what = _rows_of_run(path, tokenizer), "the run's training rows"
    elif Path(asked).suffix == ".txt":
        rows, what = [tokenizer(_text(Path(asked)))["input_ids"]], Path(asked).name
    else:
        records = list(islice(open_records(open_rows(Path(asked)), _spec(path)), READ))
        rows, what = [list(row.ids) for row in encode_records(tokenizer, records)], Path(asked).name
    documents = [row[at : at + LONGEST] for row in rows for at in range(0, len(row), LONGEST)]
    documents = [document for document in documents if len(document) > 1]
    if not documents:
        raise ExportError(f"no text in {asked} for an importance matrix", "a text file, or rows as for training")
    whole = sum(map(len, documents))
    count = max(1, min(len(documents), len(documents) * TOKENS // whole))
    chosen = np.unique(np.linspace(0, len(documents) - 1, count).round().astype(int))
    return Texts([documents[index] for index in chosen], what)


def _rows_of_run(path: Path | str, tokenizer: Any) -> list[list[int]]:
    run = run_folder_of(path)
    if run is None:
        raise ExportError(f"{path} is no run, and has no rows of its own", "--imatrix FILE", "name a file of texts")
    settings = load_config(run / "config.yml")
    rows = prepare_rows(settings, tokenizer, settings.sequence_len).train
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), READ)).round().astype(int))
    return [rows.row(int(index))[0].tolist() for index in some]


def _spec(path: Path | str) -> FormatSpec:
    """Rows of the shape that the run was trained on; else found out from the columns."""
    run = run_folder_of(path)
    if run is None or not (run / "config.yml").is_file():
        return FormatSpec()
    return FormatSpec(**load_config(run / "config.yml").datasets[0].format_fields())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read {file}: {error}", "a text file in UTF-8", "check the path") from error


def collect_importance(model: Any, texts: Texts, arch: gguf.MODEL_ARCH) -> Importance:
    """Let the model read the texts and keep the mean squared input of every matrix.

    Args:
        model: transformers, or PEFT around it; hooks stand on its own modules only while it reads.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    sums: dict[str, torch.Tensor] = {}
    with _watching(base, arch, sums), Progress("reading for the importance matrix", texts.tokens, "tokens") as progress:
        for document in texts.documents:
            with torch.no_grad():
                model(input_ids=torch.tensor([document], device=model.device), use_cache=False, logits_to_keep=1)
            progress.advance(len(document))
    columns = {name: (total / texts.tokens).float().cpu() for name, total in sums.items()}
    broken = [name for name, column in columns.items() if not torch.isfinite(column).all()]
    if broken or not columns:
        raise ExportError("the model's activations are not finite" if broken else "the model has no linear layers")
    return Importance(columns, texts.what, len(texts.documents), LONGEST, texts.tokens)


@contextmanager
def _watching(base: Any, arch: gguf.MODEL_ARCH, sums: dict[str, torch.Tensor]) -> Iterator[None]:
    handles = []
    try:
        for name, layer in _matrices(base, arch):
            handles.append(layer.register_forward_pre_hook(_adder(name, sums)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(name: str, sums: dict[str, torch.Tensor]) -> Any:
    def add(_layer: Any, inputs: Sequence[torch.Tensor]) -> None:
        x_TI = inputs[0].detach().flatten(0, -2).float()
        found = x_TI.square().sum(0).double()
        sums[name] = sums[name] + found if name in sums else found

    return add


def _matrices(base: Any, arch: gguf.MODEL_ARCH) -> Iterator[tuple[str, Any]]:
    """The linear layers that become matrices of decoder layers, by their names in GGUF."""
    names = gguf.get_tensor_name_map(arch, base.config.get_text_config().num_hidden_layers)
    for path, module in base.named_modules():
        if not isinstance(module, torch.nn.Linear) or ".lora_" in path:
            continue
        clean = path.removesuffix(".base_layer").replace("model.language_model.", "model.", 1)
        target = names.get_name(f"{clean}.weight", try_suffixes=(".weight",))
        if target is not None and target.startswith("blk."):
            yield target, module
