"""``DPOTrainer`` and its kin with the arguments that TRL's users know, over whet's own loop."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainingArguments

from whet.config.nearest import refuse_arguments, refuse_unknown
from whet.console import notice
from whet.data.answer_loader import AnswerDataset, CollateAnswers
from whet.data.answer_rows import AnswerRows
from whet.data.formats import FormatSpec, to_records
from whet.errors import DataError, WhetError
from whet.models.load import context_length
from whet.train.fallback import settle, settle_own
from whet.train.preference.dpo import Dpo
from whet.train.preference.kto import Kto
from whet.train.preference.objective import Kept, Method, PreferenceObjective
from whet.train.preference.orpo import Orpo
from whet.train.preference.rows import label_rows, pair_rows
from whet.train.preference.simpo import Simpo
from whet.train.trainer import WhetTrainer

DEFAULT_LENGTH = 2048


@dataclass
class PreferenceConfig(TrainingArguments):
    """transformers' arguments and those that all preference methods share."""

    learning_rate: float = field(
        default=1e-6, metadata={"help": "as in TRL; with an adapter ten times as much is usual"}
    )
    beta: float = field(default=0.1, metadata={"help": "how strongly the policy is held to the reference"})
    max_length: int | None = field(default=None, metadata={"help": "longest text, in tokens; longer ones are left out"})
    max_prompt_length: int | None = field(default=None, metadata={"help": "accepted; prompts are never cut"})
    max_completion_length: int | None = field(default=None, metadata={"help": "accepted; answers are never cut"})
    precompute_ref_log_probs: bool = field(
        default=False,
        metadata={"help": "compute the reference once, before training, with adapters too"},
    )
    dataset_num_proc: int | None = field(default=None, metadata={"help": "accepted; the tokenizer uses all cores"})
    disable_dropout: bool = field(default=True, metadata={"help": "accepted; dropout is what the adapter says"})

    def __new__(cls, *args: Any, **kwargs: Any) -> PreferenceConfig:
        """Refuse an unknown name with the nearest known one."""
        refuse_unknown(kwargs, [f.name for f in dataclasses.fields(cls) if f.init], cls.__name__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        settle_own(self)
        super().__post_init__()

    def method(self) -> Method:
        """The loss that these arguments ask for."""
        raise WhetError("PreferenceConfig names no method", "DPOConfig, ORPOConfig, CPOConfig or KTOConfig")


@dataclass
class DPOConfig(PreferenceConfig):
    """Arguments of ``DPOTrainer``."""

    loss_type: Any = field(default="sigmoid", metadata={"help": "sigmoid, hinge, ipo, robust or sigmoid_norm"})
    label_smoothing: float = field(default=0.0, metadata={"help": "share of pairs that may stand the wrong way round"})
    rpo_alpha: float | None = field(default=None, metadata={"help": "weight of the chosen answer's mean NLL"})

    def method(self) -> Method:
        loss = _one_of(self.loss_type, ("sigmoid", "hinge", "ipo", "robust", "sigmoid_norm"))
        return Dpo(self.beta, loss, self.label_smoothing, self.rpo_alpha or 0.0)  # type: ignore[arg-type]


@dataclass
class ORPOConfig(PreferenceConfig):
    """Arguments of ``ORPOTrainer``."""

    def method(self) -> Method:
        return Orpo(self.beta)


@dataclass
class CPOConfig(PreferenceConfig):
    """Arguments of ``CPOTrainer``, of which whet has SimPO."""

    loss_type: Any = field(default="simpo", metadata={"help": "simpo"})
    simpo_gamma: float = field(default=Simpo.gamma, metadata={"help": "margin of the rewards"})
    cpo_alpha: float = field(default=0.0, metadata={"help": "weight of the chosen answer's mean NLL"})

    def method(self) -> Method:
        _one_of(self.loss_type, ("simpo",))
        return Simpo(self.beta, self.simpo_gamma, self.cpo_alpha)


@dataclass
class KTOConfig(PreferenceConfig):
    """Arguments of ``KTOTrainer``."""

    desirable_weight: float = field(default=1.0, metadata={"help": "weight of good answers"})
    undesirable_weight: float = field(default=1.0, metadata={"help": "weight of bad answers"})

    def method(self) -> Method:
        return Kto(self.beta, self.desirable_weight, self.undesirable_weight)


class DPOTrainer(WhetTrainer):
    """Preference training of a loaded model; the method is that of ``args``.

    Args:
        model: a model, with or without adapter. The reference is the model without it, or as it is at the first step.
        ref_model: None, or ``model`` itself.
        args: ``DPOConfig`` or one of its kin.
        train_dataset: rows with a prompt, a chosen and a rejected answer; for KTO also a prompt, a completion, a label.
        processing_class: the tokenizer, also called ``tokenizer``.

    Raises:
        DataError: rows that cannot be read, or none left.
        WhetError: an argument of an unknown name, another reference model.
    """

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: PreferenceConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        data_collator: Any = None,
        callbacks: list[Any] | None = None,
        compute_metrics: Any = None,
        **unknown: Any,
    ) -> None:
        name = type(self).__name__
        refuse_arguments(unknown, DPOTrainer.__init__, name)
        if ref_model is not None and ref_model is not model:
            fix = "leave ref_model out; to go on from a model, load it and give it a new adapter"
            raise WhetError(f"{name} was given another ref_model", "the model before training is the reference", fix)
        self.text_tokenizer = processing_class if processing_class is not None else tokenizer
        if self.text_tokenizer is None:
            raise WhetError(f"{name} was given no tokenizer", fix="pass processing_class=tokenizer")
        if data_collator is not None or compute_metrics is not None:
            notice("whet makes the batches and the figures itself: data_collator and compute_metrics are unused")
        given = args if args is not None else self._config()(output_dir="outputs")
        if not isinstance(given, PreferenceConfig):
            raise WhetError(f"{name} was given {type(given).__name__}", self._config().__name__)
        method = given.method()
        length = context_length(model.config, given.max_length or getattr(model, "max_seq_length", 0) or DEFAULT_LENGTH)
        train = pairs_of(self.text_tokenizer, train_dataset, length, method.judged)
        held = pairs_of(self.text_tokenizer, eval_dataset, length, method.judged) if eval_dataset is not None else None
        collate = CollateAnswers(self.text_tokenizer.pad_token_id or 0)
        super().__init__(
            model=model,
            args=quiet(settle(given)),
            train_dataset=AnswerDataset(train),
            eval_dataset=AnswerDataset(held) if held is not None else None,
            collate=collate,
            tokenizer=self.text_tokenizer,
            callbacks=callbacks,
            objective=PreferenceObjective(
                method, Kept(Path(str(given.output_dir)) / "reference", given.precompute_ref_log_probs)
            ),
        )
        collate.flat = self.engine is not None

    @staticmethod
    def _config() -> type[PreferenceConfig]:
        return DPOConfig


class ORPOTrainer(DPOTrainer):
    """``DPOTrainer`` with ``ORPOConfig``: odds ratios, no reference."""

    @staticmethod
    def _config() -> type[PreferenceConfig]:
        return ORPOConfig


class CPOTrainer(DPOTrainer):
    """``DPOTrainer`` with ``CPOConfig``: SimPO, no reference."""

    @staticmethod
    def _config() -> type[PreferenceConfig]:
        return CPOConfig


class KTOTrainer(DPOTrainer):
    """``DPOTrainer`` with ``KTOConfig``: answers judged good or bad."""

    @staticmethod
    def _config() -> type[PreferenceConfig]:
        return KTOConfig


def pairs_of(tokenizer: Any, dataset: Any, length: int, judged: bool = False) -> AnswerRows:
    """The pairs (or judged answers) of a notebook's data set, encoded; what they are is said.

    Args:
        length: tokens of the longest text.

    Raises:
        DataError: no data set, rows that cannot be read, or none left.
    """
    if dataset is None:
        raise DataError("no train_dataset was given", "rows to train on")
    rows = dataset if isinstance(dataset, datasets.Dataset) else datasets.Dataset.from_list(list(dataset))
    make = label_rows if judged else pair_rows
    found = make(tokenizer, to_records(rows, FormatSpec()).records, length)
    notice(f"data: {len(found):,} {'pairs' if found.size == 2 else 'judged answers'}")
    for reason, count in (found.dropped or {}).items():
        notice(f"data: {count:,} rows left out: {reason}")
    return found


def _one_of(asked: Any, known: tuple[str, ...]) -> str:
    """One loss; TRL takes a list of them too."""
    name = asked[0] if isinstance(asked, list | tuple) and len(asked) == 1 else asked
    if name not in known:
        raise WhetError(f"loss_type {asked!r}", f"one of {', '.join(known)}")
    return str(name)


def quiet(args: Any) -> Any:
    """whet draws the progress, and no thread needs pinned memory on a CPU."""
    quiet = copy.copy(args)
    quiet.disable_tqdm = True
    quiet.dataloader_pin_memory = False
    return quiet
