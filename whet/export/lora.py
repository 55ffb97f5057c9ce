"""A LoRA adapter merged into its base, tensor by tensor: W + scaling * B A (Hu et al. 2021), in float32.

DoRA (Liu et al. 2024, arXiv 2402.09353) gives each row of that sum the length that was trained. Reads PEFT's files.
What PEFT can write and this cannot merge exactly is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from whet.errors import ExportError
from whet.export.tensors import EMBEDDING, HEAD, TensorSource

PREFIX = "base_model.model."
FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?$")
MAGNITUDE = re.compile(r"^(?P<module>.+)\.lora_magnitude_vector(?:\.weight)?$")
CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Factors:
    """One weight's A [rank, in] and B [out, rank]; of an embedding the product is turned.

    ``lengths_O`` are DoRA's lengths of the merged rows.
    """

    a_RI: torch.Tensor
    b_OR: torch.Tensor
    embedding: bool
    lengths_O: torch.Tensor | None = None


class AdapterSource:
    """A base model with a PEFT LoRA adapter merged in, lazily.

    A head that the adapter makes different from a tied embedding is written as a weight of its own, and
    ``tie_word_embeddings`` in ``config`` becomes False.

    Args:
        base: the model that the adapter was trained on, in 16 or 32 bit.
        adapter_folder: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ExportError: no adapter there, another kind than LoRA, or one that does not fit the base.
    """

    def __init__(self, base: TensorSource, adapter_folder: Path | str) -> None:
        self.base = base
        self.folder = base.folder
        self.adapter = read_adapter_config(adapter_folder)
        self._factors, self._replaced = _sort_weights(_read_weights(Path(adapter_folder)))
        self.config = dict(base.config)
        self._untied = self._unties()
        if self._untied:
            self.config["tie_word_embeddings"] = False
        self._check_fit(Path(adapter_folder))
        self._resize(Path(adapter_folder))

    def names(self) -> list[str]:
        extra = [HEAD] if self._untied else []
        return sorted([*self.base.names(), *extra])

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._replaced:
            return tuple(self._replaced[name].shape)
        return self.base.shape(self._base_name(name))

    def get(self, name: str) -> torch.Tensor:
        weight = self._replaced[name].float() if name in self._replaced else self.base.get(self._base_name(name))
        factors = self._factors.get(name)
        if factors is None:
            return weight
        merged_OI = weight + self._delta(name, factors)
        if factors.lengths_O is None:
            return merged_OI
        return merged_OI * (factors.lengths_O.float() / torch.linalg.norm(merged_OI, dim=1))[:, None]

    @property
    def factors(self) -> dict[str, Factors]:
        """Each changed weight's factors, by its name."""
        return dict(self._factors)

    @property
    def replaced(self) -> list[str]:
        """Weights that the adapter holds whole."""
        return sorted(self._replaced)

    def scaling(self, name: str) -> float:
        """What B A is multiplied with: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self._scaling(name, self._factors[name].a_RI.shape[0])

    def _delta(self, name: str, factors: Factors) -> torch.Tensor:
        """scaling * B A in the layout of the weight."""
        delta_OI = factors.b_OR.float() @ factors.a_RI.float()
        turned = factors.embedding or bool(self.adapter.get("fan_in_fan_out"))
        return self._scaling(name, factors.a_RI.shape[0]) * (delta_OI.T if turned else delta_OI)

    def _scaling(self, name: str, rank: int) -> float:
        alpha = self.adapter["lora_alpha"]
        module = name.removesuffix(".weight")
        for pattern, value in (self.adapter.get("alpha_pattern") or {}).items():
            if re.match(pattern if pattern.startswith("^") else rf"(.*\.)?({pattern})$", module):
                alpha = value
                break
        return alpha / (math.sqrt(rank) if self.adapter.get("use_rslora") else rank)

    def _base_name(self, name: str) -> str:
        return EMBEDDING if name == HEAD and self._tied_base() else name

    def _tied_base(self) -> bool:
        return bool(self.base.config.get("tie_word_embeddings"))

    def _unties(self) -> bool:
        """Whether the adapter changes one of two tied matrices and not the other."""
        if not self._tied_base() or self.adapter.get("ensure_weight_tying"):
            return False
        touched = (set(self._factors) | set(self._replaced)) & {EMBEDDING, HEAD}
        if touched == {EMBEDDING, HEAD} and touched <= set(self._replaced):
            return not torch.equal(self._replaced[EMBEDDING], self._replaced[HEAD])
        return bool(touched)

    def _resize(self, folder: Path) -> None:
        """A vocabulary that grew or shrank: both matrices have the new rows, and the config says so."""
        rows = {name: self.shape(name)[0] for name in (EMBEDDING, HEAD) if name in self.names()}
        if len(set(rows.values())) > 1:
            raise ExportError(
                f"{folder} gives the embedding {rows[EMBEDDING]} rows and the head {rows[HEAD]}",
                "one number of tokens in both",
                "save the adapter again with save_embedding_layers=True",
            )
        if EMBEDDING in self._replaced:
            self.config["vocab_size"] = rows[EMBEDDING]

    def _check_fit(self, folder: Path) -> None:
        known = {*self.names(), HEAD}
        for name in [*self._factors, *self._replaced]:
            if name not in known:
                raise ExportError(
                    f"{folder} changes {name}, which the base model {self.base.folder} does not have",
                    "the base model that the adapter was trained on",
                )
        for name, factors in self._factors.items():
            out_in = (factors.b_OR.shape[0], factors.a_RI.shape[1])
            turned = factors.embedding or bool(self.adapter.get("fan_in_fan_out"))
            change = out_in[::-1] if turned else out_in
            if change != self.shape(name):
                raise ExportError(
                    f"{folder} does not fit the base: {name} is {self.shape(name)}, its change {change}",
                    "the base model that the adapter was trained on",
                )


def read_adapter_config(folder: Path | str) -> dict[str, Any]:
    """``adapter_config.json``, refused where it describes something that is not a plain LoRA.

    Raises:
        ExportError: the file is missing, or names another method.
    """
    file = Path(folder) / "adapter_config.json"
    if not file.is_file():
        raise ExportError(f"no adapter_config.json in {folder}", "the folder of a LoRA adapter", "check the path")
    config = json.loads(file.read_text(encoding="utf-8"))
    kind = config.get("peft_type")
    start = str(config.get("init_lora_weights", True)).lower()
    problem = ""
    if kind != "LORA":
        problem = f"an adapter of the kind {kind}"
    elif config.get("use_dora") and config.get("fan_in_fan_out"):
        problem = "a DoRA adapter with fan_in_fan_out"
    elif config.get("alora_invocation_tokens"):
        problem = "an activated LoRA, which must not be merged"
    elif start.startswith(CHANGES_THE_BASE):
        problem = f"an adapter that also changed the base model at its start (init_lora_weights: {start})"
    if problem:
        raise ExportError(f"{folder} holds {problem}", "a LoRA adapter", "merge it with PEFT, then export the result")
    return config


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ExportError(f"no adapter_model.safetensors in {folder}", "the folder of a LoRA adapter")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ExportError(f"cannot read {file}: {error}", "a complete safetensors file", "copy it again") from error


def _sort_weights(weights: dict[str, torch.Tensor]) -> tuple[dict[str, Factors], dict[str, torch.Tensor]]:
    """LoRA factors by weight name, and weights that were trained whole (modules_to_save, biases)."""
    halves: dict[str, dict[str, torch.Tensor]] = {}
    lengths: dict[str, torch.Tensor] = {}
    embeddings: set[str] = set()
    replaced: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        name = key.removeprefix(PREFIX)
        found = FACTOR.match(name)
        if found:
            weight = found["module"] + ".weight"
            halves.setdefault(weight, {})[found["side"]] = tensor
            if found["embedding"]:
                embeddings.add(weight)
        elif length := MAGNITUDE.match(name):
            lengths[length["module"] + ".weight"] = tensor.flatten()
        elif "lora_" in name or "trainable_tokens" in name:
            raise ExportError(f"the adapter holds {key}, which cannot be merged exactly", "lora_A and lora_B only")
        else:
            replaced[name.replace(".base_layer.", ".")] = tensor
    for weight, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise ExportError(f"the adapter has only one half of the change of {weight}", "lora_A and lora_B")
    wrong = next((name for name in lengths if name not in halves or name in embeddings), None)
    if wrong is not None:
        raise ExportError(
            f"the adapter holds DoRA lengths of {wrong}", "lengths of linear layers with lora_A and lora_B"
        )
    factors = {
        name: Factors(pair["A"], pair["B"], name in embeddings, lengths.get(name)) for name, pair in halves.items()
    }
    return factors, replaced
