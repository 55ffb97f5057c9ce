"""``SFTTrainer`` and ``SFTConfig`` with the arguments that readers of notebooks know; old and new names both work."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datasets
from transformers import TrainingArguments

from whet.console import notice
from whet.data.formats import FormatSpec, to_records
from whet.data.loader import PackedDataset, PaddedDataset, Prepared, collate, collate_padded, prepare
from whet.data.records import Record, TextRecord
from whet.data.tokens import encode_records
from whet.errors import DataError, WhetError
from whet.models.load import context_length
from whet.train.fallback import mixed_precision, optimizer_name, settle
from whet.train.template import settle_template
from whet.train.trainer import WhetTrainer

TEXT_FIELD = "text"
DEFAULT_LENGTH = 2048


@dataclass
class SFTConfig(TrainingArguments):
    """transformers' arguments and those of supervised fine-tuning. What this machine cannot is replaced and said."""

    dataset_text_field: str = field(default=TEXT_FIELD, metadata={"help": "column with the text"})
    max_length: int | None = field(default=None, metadata={"help": "longest row, in tokens"})
    max_seq_length: int | None = field(default=None, metadata={"help": "older name of max_length"})
    packing: bool = field(default=False, metadata={"help": "put several rows into one of max_length tokens"})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "accepted; the tokenizer uses all cores"})
    completion_only_loss: bool | None = field(default=None, metadata={"help": "False: train prompts too"})

    def __new__(cls, *args: Any, **kwargs: Any) -> SFTConfig:
        """Refuse an unknown name with the nearest known one."""
        refuse_unknown(kwargs, [f.name for f in dataclasses.fields(cls) if f.init], "SFTConfig")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        asked: Any = self
        asked.bf16, asked.fp16 = mixed_precision(asked.bf16, asked.fp16)
        asked.optim = optimizer_name(getattr(asked.optim, "value", asked.optim))
        super().__post_init__()


class SFTTrainer(WhetTrainer):
    """Supervised fine-tuning of a loaded model on rows of a data set.

    Args:
        model: a model, with or without adapter.
        tokenizer: also called ``processing_class``.
        args: ``SFTConfig`` or ``TrainingArguments``.
        train_dataset: rows with a text column, with messages, or with a prompt and a completion.
        dataset_text_field: the text column; rows that have it are trained as whole texts.
        max_seq_length: longest row in tokens; longer ones are left out and counted.
        formatting_func: makes the text of a row (or a list of texts of a batch of rows).
        packing: several rows in one of ``max_seq_length`` tokens, told apart by position ids.

    Raises:
        DataError: rows that cannot be read, or none left.
        WhetError: an argument of an unknown name.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        processing_class: Any = None,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        dataset_text_field: str | None = None,
        max_seq_length: int | None = None,
        packing: bool | None = None,
        formatting_func: Callable[[Any], Any] | None = None,
        dataset_num_proc: int | None = None,
        data_collator: Any = None,
        callbacks: list[Any] | None = None,
        compute_metrics: Any = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown(unknown, _names(SFTTrainer.__init__), "SFTTrainer")
        self.text_tokenizer = tokenizer if tokenizer is not None else processing_class
        if self.text_tokenizer is None:
            raise WhetError("SFTTrainer was given no tokenizer", fix="pass tokenizer=tokenizer")
        if data_collator is not None or compute_metrics is not None:
            notice(
                "whet makes the batches and the validation loss itself: data_collator and compute_metrics are unused"
            )
        given = args if args is not None else SFTConfig(output_dir="outputs")
        length = _length(model, given, max_seq_length)
        text_field = dataset_text_field or getattr(given, "dataset_text_field", None) or TEXT_FIELD
        packed = packing if packing is not None else bool(getattr(given, "packing", False))
        train_on_inputs = getattr(given, "completion_only_loss", None) is False
        records = read_rows(train_dataset, text_field, formatting_func)
        self.template_kind = settle_template(self.text_tokenizer, records)
        encode = partial(encode_records, self.text_tokenizer, train_on_inputs=train_on_inputs)
        self.prepared = prepare(encode(records), length)
        _report(self.prepared)
        held = read_rows(eval_dataset, text_field, formatting_func) if eval_dataset is not None else None
        evaluated = _items(prepare(encode(held), length), packed, length) if held is not None else None
        super().__init__(
            model=model,
            args=_quiet(settle(given)),
            train_dataset=_items(self.prepared, packed, length),
            eval_dataset=evaluated,
            collate=partial(collate if packed else collate_padded, pad_id=self.text_tokenizer.pad_token_id or 0),
            tokenizer=self.text_tokenizer,
            callbacks=callbacks,
        )


def read_rows(dataset: Any, text_field: str, formatting_func: Callable[[Any], Any] | None) -> list[Record]:
    """Records of a notebook's data set: formatted texts, a text column, or whatever its columns are.

    Raises:
        DataError: no data set, no rows, or columns that nothing is known about.
    """
    if dataset is None:
        raise DataError("SFTTrainer was given no train_dataset", "rows to train on")
    rows = dataset if isinstance(dataset, datasets.Dataset) else datasets.Dataset.from_list(list(dataset))
    if len(rows) == 0:
        raise DataError("the data set is empty", "at least one row")
    if formatting_func is not None:
        return [TextRecord(text) for text in _formatted(rows, formatting_func)]
    if text_field in rows.column_names:
        rows = rows.select_columns([text_field])
        return to_records(rows, FormatSpec(kind="completion", field=text_field)).records
    return to_records(rows, FormatSpec()).records


def _formatted(rows: datasets.Dataset, formatting_func: Callable[[Any], Any]) -> Iterable[str]:
    """A formatting function takes a batch of rows and gives a list of texts, or takes one row and gives a text."""
    try:
        texts = formatting_func(rows[:])
    except (TypeError, ValueError, KeyError, AttributeError, IndexError):  # written for one row
        texts = None
    if not isinstance(texts, list) or len(texts) != len(rows):
        texts = [formatting_func(row) for row in rows]
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"formatting_func gave {type(wrong).__name__}", "a text for a row, or a list of texts")
    return texts


def _length(model: Any, args: Any, asked: int | None) -> int:
    named = asked or getattr(args, "max_length", None) or getattr(args, "max_seq_length", None)
    return context_length(model.config, named or getattr(model, "max_seq_length", None) or DEFAULT_LENGTH)


def _items(prepared: Prepared, packed: bool, length: int) -> PackedDataset | PaddedDataset:
    return PackedDataset(prepared, length) if packed else PaddedDataset(prepared)


def _report(prepared: Prepared) -> None:
    stats = prepared.stats
    notice(f"data: {len(prepared):,} rows, {stats.tokens:,} tokens, {stats.trained_tokens:,} of them trained")
    for reason, count in stats.dropped.items():
        notice(f"data: {count:,} rows left out: {reason}")


def _quiet(args: Any) -> Any:
    """whet draws the progress, and no thread needs pinned memory on a CPU."""
    quiet = copy.copy(args)
    quiet.disable_tqdm = True
    quiet.dataloader_pin_memory = False
    return quiet


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


def _names(function: Any) -> list[str]:
    code = function.__code__
    return [name for name in code.co_varnames[: code.co_argcount] if name not in ("self", "model")]
