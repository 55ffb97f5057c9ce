"""``SFTTrainer`` and ``SFTConfig`` with the arguments that readers of notebooks know; old and new names both work."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformers import TrainingArguments

from whet.config.nearest import refuse_arguments, refuse_unknown
from whet.console import notice
from whet.data.loader import PackedDataset, PaddedDataset, collate, collate_padded
from whet.data.prepare import prepare
from whet.data.prepared import Prepared
from whet.data.tokens import encode_records
from whet.errors import WhetError
from whet.models.load import context_length
from whet.text.encode import Encoded
from whet.train.fallback import settle, settle_own
from whet.train.responses import in_own_template
from whet.train.sft_rows import SftRows, read_rows
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
    excess_length_strategy: str = field(
        default="drop", metadata={"help": "rows longer than max_length: drop, truncate, split (raw text) or error"}
    )
    completion_only_loss: bool | None = field(default=None, metadata={"help": "False: train prompts too"})

    def __new__(cls, *args: Any, **kwargs: Any) -> SFTConfig:
        """Refuse an unknown name with the nearest known one."""
        refuse_unknown(kwargs, [f.name for f in dataclasses.fields(cls) if f.init], "SFTConfig")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        settle_own(self)
        super().__post_init__()


class SFTTrainer(WhetTrainer):
    """Supervised fine-tuning of a loaded model on rows of a data set.

    Args:
        model: a model, with or without adapter.
        tokenizer: also called ``processing_class``.
        args: ``SFTConfig`` or ``TrainingArguments``.
        train_dataset: rows with a text column, with messages, or with a prompt and a completion.
        dataset_text_field: the text column; rows that have it are trained as whole texts.
        max_seq_length: longest row in tokens; longer ones are left out and counted (``excess_length_strategy``).
        formatting_func: makes the text of a row (or a list of texts of a batch of rows).
        packing: several rows in one of ``max_seq_length`` tokens, told apart by position ids.

    Attributes:
        train_rows, eval_rows: the rows as records, so that they can be masked in another way (``remake``).
        prepared: the training rows as tokens.

    Raises:
        DataError: rows that cannot be read or that supervised fine-tuning cannot use, or none left.
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
        refuse_arguments(unknown, SFTTrainer.__init__, "SFTTrainer")
        self.text_tokenizer = tokenizer if tokenizer is not None else processing_class
        if self.text_tokenizer is None:
            raise WhetError("SFTTrainer was given no tokenizer", fix="pass tokenizer=tokenizer")
        if data_collator is not None or compute_metrics is not None:
            notice(
                "whet makes the batches and the validation loss itself: data_collator and compute_metrics are unused"
            )
        given = args if args is not None else SFTConfig(output_dir="outputs")
        self._length = _length(model, given, max_seq_length)
        self._packed = packing if packing is not None else bool(getattr(given, "packing", False))
        text_field = dataset_text_field or getattr(given, "dataset_text_field", None) or TEXT_FIELD
        self.train_rows = read_rows(train_dataset, text_field, formatting_func)
        self.eval_rows = read_rows(eval_dataset, text_field, formatting_func) if eval_dataset is not None else None
        self._excess: Any = getattr(given, "excess_length_strategy", "drop")
        self.template_kind = _settle(self.text_tokenizer, self.train_rows, self._excess == "split")
        train_on_inputs = getattr(given, "completion_only_loss", None) is False
        encode = partial(encode_records, self.text_tokenizer, train_on_inputs=train_on_inputs)
        self.prepared = self._encoded(encode(self.train_rows.records))
        _report(self.prepared)
        held = self._encoded(encode(self.eval_rows.records)) if self.eval_rows is not None else None
        super().__init__(
            model=model,
            args=_quiet(settle(given)),
            train_dataset=self._items(self.prepared),
            eval_dataset=self._items(held) if held is not None else None,
            collate=partial(collate if self._packed else collate_padded, pad_id=self.text_tokenizer.pad_token_id or 0),
            tokenizer=self.text_tokenizer,
            callbacks=callbacks,
        )

    def remake(self, encode: Callable[[SftRows], Iterable[Encoded]]) -> None:
        """Encode the rows in another way; at an error everything stays as it was.

        Args:
            encode: rows to encoded documents.

        Raises:
            DataError: nothing is left to train on.
        """
        prepared = self._encoded(encode(self.train_rows))
        held = self._encoded(encode(self.eval_rows)) if self.eval_rows is not None else None
        _report(prepared)
        self.prepared = prepared
        self.train_dataset = self._items(prepared)
        self.eval_dataset = self._items(held) if held is not None else None

    def _encoded(self, encoded: Iterable[Encoded]) -> Prepared:
        return prepare(encoded, self._length, self._excess)

    def _items(self, prepared: Prepared) -> PackedDataset | PaddedDataset:
        return PackedDataset(prepared, self._length) if self._packed else PaddedDataset(prepared)


def _settle(tokenizer: Any, rows: SftRows, documents: bool) -> str:
    """Which template the rows teach. Texts that are conversations in the tokenizer's own need no guess."""
    if rows.are_rendered(tokenizer) or in_own_template(tokenizer, rows):
        return "tokenizer"
    return settle_template(tokenizer, rows.records, documents)


def _length(model: Any, args: Any, asked: int | None) -> int:
    named = asked or getattr(args, "max_length", None) or getattr(args, "max_seq_length", None)
    return context_length(model.config, named or getattr(model, "max_seq_length", None) or DEFAULT_LENGTH)


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
