"""The nearest name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from whet.errors import WhetError

# Names that other tools use for the same thing: further away in letters than in meaning.
OTHER_NAMES = {
    "alpha": "lora_alpha",
    "batch_size": "micro_batch_size",
    "dataset": "datasets",
    "dropout": "lora_dropout",
    "epochs": "num_epochs",
    "lora_rank": "lora_r",
    "lr": "learning_rate",
    "max_length": "sequence_len",
    "max_seq_length": "sequence_len",
    "model": "base_model",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "num_train_epochs": "num_epochs",
    "optim": "optimizer",
    "packing": "sample_packing",
    "per_device_eval_batch_size": "eval_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "r": "lora_r",
    "rank": "lora_r",
    "target_modules": "lora_target_modules",
}


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like ``name`` (known synonyms first, then letters), or None where there is no option."""
    options = list(options)
    known = sorted(set(options))
    plain = name.strip().lower().replace("-", "_")
    if plain in known:
        return plain
    if OTHER_NAMES.get(plain) in known:
        return OTHER_NAMES[plain]
    longer = next((option for option in options if option.startswith(f"{plain}_")), None)
    if longer:
        return longer
    found = difflib.get_close_matches(plain, known, n=1, cutoff=0.0)
    return found[0] if found else None


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A sentence with the nearest option, or nothing."""
    option = nearest(name, options)
    return f'did you mean "{option}"?' if option else ""


def refuse_unknown(given: dict[str, Any], known: list[str], what: str) -> None:
    """Raise for the first name in ``given`` that is not in ``known``, with the nearest one.

    Raises:
        WhetError: an unknown name.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise WhetError(f"{what} has no argument {name}", fix=hint)


def refuse_arguments(given: dict[str, Any], function: Any, what: str = "") -> None:
    """Raise for the first name in ``given``, the unknown keywords of a call of ``function``.

    Raises:
        WhetError: there is one.
    """
    code = function.__code__
    known = [name for name in code.co_varnames[: code.co_argcount] if name != "self"]
    refuse_unknown(given, known, what or function.__name__)
