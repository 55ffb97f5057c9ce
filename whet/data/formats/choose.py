"""Which type the rows are of: named by the user, or found from the columns, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from whet.config.dataset_keys import DATASET_TYPES
from whet.config.nearest import did_you_mean
from whet.data.formats import columns as texts
from whet.data.formats.cells import Make, first_of, need
from whet.data.formats.chats import MESSAGE_COLUMNS, chat
from whet.data.formats.labels import LABELS, labels
from whet.data.formats.merged import merged
from whet.data.formats.preference import CHOSEN, REJECTED, pair_columns, preference
from whet.data.formats.spec import FormatSpec
from whet.errors import DataError

SEGMENTS = "input_output"
Chosen = tuple[Make, str]
FirstRow = Callable[[], dict[str, Any]]


def choose(spec: FormatSpec, columns: Sequence[str], first_row: FirstRow) -> Chosen:
    """What reads the rows, and one sentence that says how.

    Args:
        first_row: gives the first row; called only where the columns alone do not tell.

    Raises:
        DataError: an unknown type, columns that nothing is known about, a missing column.
    """
    if spec.kind is None:
        make, reason = _recognise(spec, columns, first_row)
        return make, f"type found from the columns: {reason}"
    return _named(spec.kind, spec, columns)


def _named(kind: str, spec: FormatSpec, columns: Sequence[str]) -> Chosen:
    if kind == "mapping" and spec.merged_prompt is not None:
        return merged(spec, spec.merged_prompt, columns), "columns merged into one prompt, as a conversation"
    if kind == "mapping":
        return texts.mapping(spec, columns), "a format of your own"
    if kind in ("alpaca", "alpaca:chat"):
        return _alpaca(kind, spec, columns)
    if kind in ("completion", "pretrain"):
        column = need(columns, spec.field or "text", "field")
        return texts.text(column), f"{kind}: the column {column}, trained as a whole"
    if kind == "prompt_completion":
        return _prompt_completion(spec, columns)
    if kind in ("chat_template", "sharegpt") and not _asks_for_more(spec):
        make, reason = chat(spec, columns)
        return make, f"{kind}: {reason}"
    if kind in DATASET_TYPES:
        return _judged(kind, spec, columns)
    if kind == SEGMENTS:
        raise DataError(f"the type {SEGMENTS} is not supported yet", "prompt and completion, or messages with train")
    names = ", ".join(DATASET_TYPES)
    raise DataError(f'the type "{kind}" is not known', f"{names} or a mapping", did_you_mean(kind, DATASET_TYPES))


def _asks_for_more(spec: FormatSpec) -> bool:
    return bool(spec.field_chosen or spec.field_rejected or spec.field_label)


def _judged(kind: str, spec: FormatSpec, columns: Sequence[str]) -> Chosen:
    """Pairs or labels: Axolotl uses the same names for both, so the columns decide."""
    has_label = spec.field_label or first_of(columns, LABELS)
    pairs = pair_columns(spec, columns)
    wants_label = kind.startswith("kto") or spec.field_label or (has_label and not pairs and kind != "preference")
    make, reason = labels(spec, columns) if wants_label else preference(spec, columns)
    return make, f"{kind}: {reason}"


def _alpaca(kind: str, spec: FormatSpec, columns: Sequence[str]) -> Chosen:
    need(columns, "instruction")
    need(columns, "output")
    if kind == "alpaca":
        return texts.alpaca(), "alpaca: instruction, input, output"
    beside = ", system" if (spec.field_system or "system") in columns else ""
    return texts.alpaca_chat(spec), f"alpaca:chat: instruction, input, output{beside}, as messages"


def _prompt_completion(spec: FormatSpec, columns: Sequence[str]) -> Chosen:
    need(columns, "prompt")
    need(columns, "completion")
    return texts.prompt_and_completion(spec), "columns prompt and completion"


def _recognise(spec: FormatSpec, columns: Sequence[str], first_row: FirstRow) -> Chosen:
    """The type by the columns. Judged answers win over conversations, these over pairs, pairs over plain text."""
    here = set(columns)
    if spec.field_chosen or spec.field_rejected or (here & set(CHOSEN) and here & set(REJECTED)):
        return preference(spec, columns)
    if spec.field_label or _has_labels(here, first_row):
        return labels(spec, columns)
    if first_of(columns, (spec.field_messages, *MESSAGE_COLUMNS)):
        return chat(spec, columns)
    if {"prompt", "completion"} <= here:
        make, reason = _prompt_completion(spec, columns)
        as_messages = any(isinstance(first_row().get(name), list | dict) for name in ("prompt", "completion"))
        return make, reason + (", as messages" if as_messages else "")
    if {"instruction", "output"} <= here:
        return texts.alpaca(), "columns instruction and output: the Alpaca prompt"
    if (spec.field or "text") in here:
        column = spec.field or "text"
        return texts.text(column), f"column {column}, trained as a whole"
    raise DataError(
        f"these columns are not recognised: {', '.join(columns)}",
        "messages, prompt and completion, instruction and output, chosen and rejected, or text",
        "set type for this data set: {field_instruction: ..., field_output: ..., format: ...}",
    )


def _has_labels(here: set[str], first_row: FirstRow) -> bool:
    """A column label beside prompt and completion may also be a class: only a truth value makes it KTO's."""
    if "kto_tag" in here and (here & set(MESSAGE_COLUMNS) or {"prompt", "completion"} <= here):
        return True
    if not {"prompt", "completion", "label"} <= here:
        return False
    return str(first_row().get("label")).strip().lower() in ("true", "false")
