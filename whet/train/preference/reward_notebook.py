"""``RewardTrainer`` with the arguments that TRL's users know, over whet's own loop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from whet.config.nearest import refuse_arguments, refuse_unknown
from whet.console import notice
from whet.errors import WhetError
from whet.models.load import context_length, load_model, load_tokenizer
from whet.models.names import locate
from whet.models.scores import TASK, score_layer, widen_head
from whet.train.fallback import settle, settle_own
from whet.train.preference.notebook import pairs_of, quiet
from whet.train.preference.reward import CollateRewards, Reward, RewardDataset, RewardObjective
from whet.train.trainer import WhetTrainer


@dataclass
class RewardConfig(TrainingArguments):
    """transformers' arguments and those of ``RewardTrainer``."""

    learning_rate: float = field(default=1e-4, metadata={"help": "as in TRL; 1e-6 to 2e-5 without an adapter"})
    max_length: int | None = field(default=1024, metadata={"help": "longest text, in tokens; longer ones are left out"})
    center_rewards_coefficient: float | None = field(
        default=None, metadata={"help": "weight that holds the rewards around 0, such as 0.01"}
    )
    dataset_num_proc: int | None = field(default=None, metadata={"help": "accepted; the tokenizer uses all cores"})
    disable_dropout: bool = field(default=True, metadata={"help": "accepted; dropout is what the adapter says"})
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "accepted; the result is the same"})

    def __new__(cls, *args: Any, **kwargs: Any) -> RewardConfig:
        """Refuse an unknown name with the nearest known one."""
        refuse_unknown(kwargs, [f.name for f in dataclasses.fields(cls) if f.init], cls.__name__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        settle_own(self)
        super().__post_init__()


class RewardTrainer(WhetTrainer):
    """Trains a model that scores answers, from pairs.

    Args:
        model: a model of ``AutoModelForSequenceClassification`` with ``num_labels=1`` (with or without an adapter of
            the task ``SEQ_CLS``), or a name that ``FastLanguageModel.from_pretrained`` takes.
        train_dataset: rows with a prompt, a chosen and a rejected answer.
        processing_class: the tokenizer, also called ``tokenizer``; None with a name: the model's own.
        peft_config: a ``peft.LoraConfig``; the adapter is put on the model. Its task becomes ``SEQ_CLS``.

    Raises:
        DataError: rows that cannot be read, or none left.
        ModelError: a model without one score.
        WhetError: an argument of an unknown name.
    """

    def __init__(
        self,
        model: Any,
        args: RewardConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        peft_config: Any = None,
        **unknown: Any,
    ) -> None:
        refuse_arguments(unknown, RewardTrainer.__init__, "RewardTrainer")
        if data_collator is not None or compute_metrics is not None:
            notice("whet makes the batches and the figures itself: data_collator and compute_metrics are unused")
        given = args if args is not None else RewardConfig(output_dir="outputs")
        if not isinstance(given, RewardConfig):
            raise WhetError(f"RewardTrainer was given {type(given).__name__}", "RewardConfig")
        text_tokenizer = processing_class if processing_class is not None else tokenizer
        if text_tokenizer is None:
            text_tokenizer = _tokenizer(model)
        model = _with_adapter(
            load_model(model, training=True, scores=True)[0] if isinstance(model, str) else model, peft_config
        )
        score_layer(model)  # refuses what gives no score
        widen_head(model)
        model.config.pad_token_id = pad = text_tokenizer.pad_token_id
        length = context_length(model.config, given.max_length or model.config.max_position_embeddings)
        train = pairs_of(text_tokenizer, train_dataset, length)
        held = pairs_of(text_tokenizer, eval_dataset, length) if eval_dataset is not None else None
        collate = CollateRewards(pad or 0)
        super().__init__(
            model=model,
            args=quiet(settle(given)),
            train_dataset=RewardDataset(train, pad or 0),
            eval_dataset=RewardDataset(held, pad or 0) if held is not None else None,
            collate=collate,
            tokenizer=text_tokenizer,
            callbacks=callbacks,
            objective=RewardObjective(Reward(given.center_rewards_coefficient or 0.0)),
        )
        collate.flat = self.engine is not None


def _tokenizer(model: Any) -> Any:
    if not isinstance(model, str):
        raise WhetError("RewardTrainer was given no tokenizer", fix="pass processing_class=tokenizer")
    return load_tokenizer(locate(model).tokenizer, {})


def _with_adapter(model: Any, peft_config: Any) -> Any:
    if peft_config is None:
        return model
    from peft import get_peft_model

    return get_peft_model(model, dataclasses.replace(peft_config, task_type=TASK))
