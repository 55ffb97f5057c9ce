"""Log-probabilities under the reference, computed once ahead and kept on the disk.

FOLDER/facts.json   what they were computed from
FOLDER/values.bin   one number for each trained token, in the order of the batches

They are computed in the micro-batches of the first epoch: a policy that equals its reference then has a margin of
exactly 0 in any precision, since both were rounded alike. In other batches bfloat16 rounds otherwise.

Values are appended batch by batch. A stopped pass goes on where it stood, a finished one is used again; one that was
made from other weights, tokens, batches, precision or software is never used. How many micro-batches go through at once
depends on free memory: a run that goes on keeps to the batches that it began with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whet import runtime
from whet.console import Progress, notice, output_errors, write_json_atomic
from whet.data.answer_loader import AnswerDataset, AnswerLayout
from whet.errors import TrainingError
from whet.train.forward import Batch, Forward
from whet.train.manifest import data_hash

LAYOUT = 1  # raised when what is written, or how the numbers come about, changes
WORDS = {
    "weights": "the weights of the base model",
    "tokens": "the rows, the tokenizer or the chat template",
    "batches": "the seed, the batch size or how many micro-batches go through at once",
    "packing": "how rows are packed",
    "precision": "the precision",
    "forward": "the forward that computes",
    "device": "the device",
    "software": "the version of torch, transformers or whet",
}
ITEMS = "items"  # of a batch
Load = Callable[[list[Any]], Batch]
HASHED = 1 << 24  # elements that are copied to the host at once


def compute_reference(
    forward: Forward,
    dataset: AnswerDataset,
    load: Load,
    groups: Sequence[Sequence[int]],
    folder: Path | None,
    keep: bool,
) -> list[torch.Tensor]:
    """For each document the log-probabilities of its trained tokens, from ``folder`` as far as they are there.

    Args:
        load: items to a batch on the device.
        groups: numbers of the items of each batch.
        folder: None: nothing is kept.
        keep: go on with the number of items in a batch that is stored, and refuse values of another making; else they
            are computed anew.

    Raises:
        TrainingError: with ``keep``, and the values there were made from something else.
        OutputError: the disk is full or not writable.
    """
    if folder is not None and keep:
        groups = _as_begun(folder, groups)
    sizes = [sum(_trained(dataset, item) for item in group) for group in groups]
    dtype = np.float64 if next(forward.own.parameters()).dtype == torch.float64 else np.float32
    store = None
    if folder is not None:
        first = load([dataset[item] for item in groups[0]])
        store = _Store(folder, _facts(forward, dataset, groups, first), dtype)
    done = store.begin(sizes, keep) if store is not None else 0
    found: dict[int, torch.Tensor] = {}
    for number in range(done):
        _take(found, _layouts(dataset, groups[number]), store.read(sizes, number) if store is not None else None)
    with torch.no_grad(), Progress("reference", sum(map(len, groups[done:])), "rows") as progress:
        for group in groups[done:]:
            batch = load([dataset[item] for item in group])
            parts = [part for part in (batch, batch.get("others")) if part is not None]
            values = torch.cat([_reference(forward, part).cpu() for part in parts])
            if store is not None:
                store.append(values)
            _take(found, [part["answers"] for part in parts], values)
            progress.advance(len(group))
    return [found.get(number, torch.empty(0)) for number in range(dataset.documents())]


def _as_begun(folder: Path, groups: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """The same items in the same order, as many at once as when the values were computed."""
    size = (_stored_facts(folder) or {}).get(ITEMS, "")
    if not size.isdecimal() or int(size) < 1:
        return groups
    items = [item for group in groups for item in group]
    return [items[start : start + int(size)] for start in range(0, len(items), int(size))]


def _reference(forward: Forward, batch: Batch) -> torch.Tensor:
    if not forward.has_adapters:
        return forward.logprobs(batch)
    with forward.reference():
        return forward.logprobs(batch)


def _take(found: dict[int, torch.Tensor], layouts: Sequence[AnswerLayout], values_N: torch.Tensor | None) -> None:
    assert values_N is not None
    documents = [number for layout in layouts for number in layout.documents]
    tokens = [size for layout in layouts for size in layout.tokens]
    found.update(zip(documents, values_N.split(tokens), strict=True))


def _layouts(dataset: AnswerDataset, group: Sequence[int]) -> list[AnswerLayout]:
    """Those of a batch's answers, then those of other prompts' answers, as a batch has them."""
    items = [dataset[item] for item in group]
    return [item["answers"] for item in items] + [item["others"]["answers"] for item in items if "others" in item]


def _trained(dataset: AnswerDataset, item: int) -> int:
    return sum(sum(layout.tokens) for layout in _layouts(dataset, [item]))


class _Store:
    """The folder of one data set's values."""

    def __init__(self, folder: Path, facts: dict[str, str], dtype: type[np.floating[Any]]) -> None:
        self.folder, self.facts, self.dtype = folder, facts, np.dtype(dtype)
        self.file = folder / "values.bin"

    def begin(self, sizes: Sequence[int], keep: bool) -> int:
        """How many batches are there already; what is beyond the last whole one is cut off."""
        changed = self._changed()
        if changed and keep:
            raise TrainingError(
                f"the reference in {self.folder} was computed from something else: {', '.join(changed)} changed",
                "what the run began with",
                "mend that, or start afresh without --resume",
            )
        ends = list(accumulate(sizes, initial=0))
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if changed is None or changed:
                if changed:
                    notice(f"the reference in {self.folder} is computed anew: {', '.join(changed)} changed")
                self.file.unlink(missing_ok=True)
                write_json_atomic(self.folder / "facts.json", self.facts)
            self.file.touch()
            stored = self.file.stat().st_size // self.dtype.itemsize
            done = sum(end <= stored for end in ends) - 1
            with self.file.open("r+b") as file:
                file.truncate(ends[done] * self.dtype.itemsize)
        if done:
            what = "is used" if done == len(sizes) else f"goes on: {done:,} of {len(sizes):,} batches are there"
            notice(f"the reference in {self.folder} {what}")
        return done

    def read(self, sizes: Sequence[int], number: int) -> torch.Tensor:
        """The values of one batch."""
        start = sum(sizes[:number]) * self.dtype.itemsize
        return torch.from_numpy(np.fromfile(self.file, self.dtype, sizes[number], offset=start))

    def append(self, values_N: torch.Tensor) -> None:
        """The values of the next batch."""
        with output_errors(self.folder), self.file.open("ab") as file:
            file.write(values_N.numpy().astype(self.dtype, copy=False).tobytes())

    def _changed(self) -> list[str] | None:
        """What differs from the stored facts, in words; None: there are none, or they cannot be read."""
        stored = _stored_facts(self.folder)
        if stored is None:
            return None
        return [WORDS[name] for name in WORDS if stored.get(name) != self.facts[name]]


def _stored_facts(folder: Path) -> dict[str, str] | None:
    try:
        stored = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


def _facts(forward: Forward, dataset: AnswerDataset, groups: Sequence[Sequence[int]], first: Batch) -> dict[str, str]:
    """Everything that the numbers depend on."""
    weight = next(forward.own.parameters())
    kind = weight.device.type
    with forward.autocast():
        mixed = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "no autocast"
    others = dataset.rows.others
    versions = [f"{name} {runtime.versions().get(name)}" for name in ("torch", "transformers")]
    flat = len(first["input_ids"]) < max(len(groups[0]), 2)
    attention = getattr(forward.own.config, "_attn_implementation", None)
    return {
        "weights": weights_hash(forward.own),
        "tokens": data_hash(dataset.prepared) + (data_hash(others) if others is not None else ""),
        "batches": hashlib.sha256(json.dumps([list(map(int, group)) for group in groups]).encode()).hexdigest(),
        "packing": f"{'shared' if dataset.share else 'separate'} prompts, {'one row' if flat else 'padded rows'}",
        "precision": f"{weight.dtype}, {mixed}",
        "forward": "engine" if forward.engine is not None else f"the model's own, {attention}",
        "device": torch.cuda.get_device_name(weight.device) if kind == "cuda" else kind,
        "software": f"layout {LAYOUT}, {', '.join(versions)}",
        ITEMS: str(len(groups[0])),
    }


def weights_hash(model: Any) -> str:
    """SHA-256 of a model's weights without its adapters; NF4 weights by their packed bytes and scales."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if ".lora_" in name or ".modules_to_save." in name:
            continue
        for part in _stored(weight):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            flat = part.detach().contiguous().view(-1)
            for start in range(0, flat.numel(), HASHED):
                digest.update(flat[start : start + HASHED].cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _stored(weight: Any) -> Iterator[torch.Tensor]:
    yield weight.data
    state = getattr(weight, "quant_state", None)
    if state is not None and isinstance(getattr(state, "absmax", None), torch.Tensor):
        yield state.absmax
