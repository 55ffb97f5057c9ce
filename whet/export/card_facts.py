"""What a run's own files say of it, for its model card. Nothing is guessed, and no path of this machine is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from whet.export.licence import licence_name
from whet.models.names import STARTER, adapter_settings, locate, starter_folder

EXAMPLE = ({"role": "user", "content": "What is in stock?"}, {"role": "assistant", "content": "Three crates."})
SETTINGS = {
    "learning_rate": "learning rate",
    "lr_scheduler": "schedule",
    "optimizer": "optimizer",
    "num_epochs": "epochs",
    "max_steps": "steps at most",
    "micro_batch_size": "rows in a batch",
    "gradient_accumulation_steps": "batches in a step",
    "sequence_len": "longest row, tokens",
    "seed": "seed",
}


@dataclass(frozen=True)
class CardFacts:
    """All that a card tells of a model.

    Attributes:
        base: a name on the hub, "starter", or the name of a folder; None where nobody knows.
        on_hub: whether others find the base under that name.
        licence: an identifier such as "apache-2.0".
        method: how it was trained, for example "supervised fine-tuning with LoRA (rank 8, alpha 16)".
        tags: for the hub's search.
        data: one line for each source.
        training: figures and settings by name.
        results: figures measured on it, by name.
        prompt: a short conversation as the model reads it.
        stops: texts that end an answer.
    """

    base: str | None = None
    on_hub: bool = False
    licence: str | None = None
    method: str = ""
    tags: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    training: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    stops: tuple[str, ...] = ()


def facts_of_run(path: str, licence: str | None = None, tokenizer: Any = None) -> CardFacts:
    """The facts of a run folder, an adapter folder or a checkpoint.

    Args:
        licence: what the user says; None takes the base's, where its folder is here.
        tokenizer: the model's, for the prompt format.

    Raises:
        ModelError: no model there.
    """
    place = locate(path)
    run = Path(path).expanduser()
    config = _yaml(run / "config.yml")
    adapter = None if place.adapter is None else adapter_settings(place.adapter)
    named = str(adapter["base_model_name_or_path"]) if adapter else str(config.get("base_model") or place.base)
    base, on_hub = public_name(named)
    folder = local_base(place.base if adapter else named)
    manifest = _json(run / "manifest.json")
    return CardFacts(
        base=base,
        on_hub=on_hub,
        licence=licence or (licence_name(folder) if folder is not None else None),
        method=method_of(adapter, config),
        tags=tags_of(adapter, config),
        data=tuple(_data(config.get("datasets") or [], manifest.get("data") or {})),
        training=_training(config, manifest),
        results=_results(run),
        **prompt_of(tokenizer),
    )


def public_name(named: str) -> tuple[str, bool]:
    """What others may call a base model, and whether the hub has it under that name. A path becomes its last part."""
    folder = Path(named).expanduser()
    if named == STARTER or (folder.is_dir() and folder.resolve() == starter_folder()):
        return STARTER, False
    if folder.exists() or folder.is_absolute() or named.count("/") != 1 or named.startswith("."):
        return folder.resolve().name, False
    return named, True


def local_base(named: str) -> Path | None:
    """The folder of a base model where it is on this machine already; nothing is fetched."""
    if named == STARTER:
        return starter_folder()
    if Path(named).expanduser().is_dir():
        return Path(named).expanduser()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(named, allow_patterns=["README.md", "LICENSE*"], local_files_only=True))
    except (OSError, ValueError):
        return None


def method_of(adapter: Mapping[str, Any] | None, config: Mapping[str, Any]) -> str:
    """How a model was trained, in words."""
    what = "preference training (DPO)" if config.get("rl") == "dpo" else "supervised fine-tuning"
    if adapter is None:
        return f"{what} of all weights" if config else ""
    kind = "QLoRA" if config.get("adapter") == "qlora" or config.get("load_in_4bit") else "LoRA"
    kind = "DoRA" if adapter.get("use_dora") else kind
    scale = f"rank {adapter.get('r')}, alpha {float(adapter.get('lora_alpha') or 0):g}"
    targets = adapter.get("target_modules") or []
    on = f" on {', '.join(sorted(targets))}" if isinstance(targets, list) and targets else ""
    return f"{what} with {kind} ({scale}){on}"


def tags_of(adapter: Mapping[str, Any] | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    """For the hub's search."""
    return ("whet", *(["lora"] if adapter is not None else []), "dpo" if config.get("rl") == "dpo" else "sft")


def prompt_of(tokenizer: Any) -> dict[str, Any]:
    """A short conversation in the model's own template, and what ends an answer; empty without one."""
    if tokenizer is None:
        return {}
    from whet.text.chat import chat_template_of

    template = chat_template_of(tokenizer)
    if template is None:
        return {}
    return {"prompt": tokenizer.apply_chat_template(list(EXAMPLE), tokenize=False), "stops": template.stops}


def _data(sources: Sequence[Mapping[str, Any]], counted: Mapping[str, Any]) -> list[str]:
    lines = []
    for source in sources:
        path = str(source.get("path") or "")
        name, on_hub = public_name(path)
        lines.append(f"{name} (on the hub)" if on_hub else f"{name} (a file that is not published)")
    if counted.get("rows"):
        lines.append(
            f"{counted['rows']:,} rows, {counted['tokens']:,} tokens, {counted['trained_tokens']:,} of them trained"
        )
    return lines


def _training(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, str]:
    unused = ("num_epochs",) if config.get("max_steps") else ()
    shown = {key: name for key, name in SETTINGS.items() if key not in unused and config.get(key) is not None}
    rows = {name: str(config[key]) for key, name in shown.items()}
    if manifest.get("steps") is not None:
        rows["steps done"] = str(manifest["steps"]) + (" (stopped early)" if manifest.get("interrupted") else "")
    if manifest.get("train_loss") is not None:
        rows["mean training loss, nats a token"] = f"{manifest['train_loss']:.3f}"
    device = manifest.get("device") or {}
    rows |= {"trained on": str(device["device"])} if device.get("device") else {}
    versions = manifest.get("versions") or {}
    named = [f"{name} {versions[name]}" for name in ("whet", "torch", "transformers", "peft") if name in versions]
    return rows | ({"versions": ", ".join(named)} if named else {})


def _results(run: Path) -> dict[str, str]:
    """The last loss on held-out rows, and the accuracy before and after where a run has measured it."""
    results: dict[str, str] = {}
    log = run / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    losses = [found["eval_loss"] for found in map(_line, lines) if found.get("eval_loss") is not None]
    if losses:
        results["loss on held-out rows, nats a token"] = f"{losses[-1]:.3f}"
    summary = _json(run / "summary.json")
    if summary.get("accuracy_after") is not None and summary.get("n_eval"):
        low, high = summary.get("accuracy_after_interval") or (0.0, 0.0)
        results[f"right answers to {summary['n_eval']} held-out questions, before"] = (
            f"{summary['accuracy_before']:.1%}"
        )
        after = f"{summary['accuracy_after']:.1%} (95% interval {low:.1%} to {high:.1%})"
        results[f"right answers to {summary['n_eval']} held-out questions, after"] = after
    return results


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # the last line of a killed run
        return {}
    return found if isinstance(found, dict) else {}


def _json(file: Path) -> dict[str, Any]:
    return _line(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _yaml(file: Path) -> dict[str, Any]:
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found if isinstance(found, dict) else {}
