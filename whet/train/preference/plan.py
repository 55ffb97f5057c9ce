"""What ``whet plan`` needs to know of preference training: rows, micro-batches, and what the reference costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whet.config import RunConfig
from whet.config.sizes import format_size
from whet.data.answer_loader import AnswerDataset
from whet.data.run_rows import Rows
from whet.engine.memory import Work
from whet.engine.rates import CardRates, head_seconds, layer_forward_seconds
from whet.engine.shape import Shape
from whet.train.preference.methods import method_of
from whet.train.preference.reward import RewardDataset
from whet.train.preference.run import preference_rows

VALUE_BYTES = 4  # of a stored log-probability


@dataclass(frozen=True)
class Pairs:
    """The rows of preference training.

    Attributes:
        rows: their documents, as those of supervised fine-tuning.
        dataset: as training makes it.
        facts: lines of the printed plan.
        passes: forward passes without gradients in each step, beside that of training.
        ahead: the reference is computed before the first step, and not in each.
    """

    rows: Rows
    dataset: AnswerDataset | RewardDataset
    facts: dict[str, str]
    passes: int
    ahead: bool


def pairs_of(config: RunConfig, tokenizer: Any, limit: int) -> Pairs:
    """Read and encode the rows of a config with ``rl`` or ``reward_model``.

    Args:
        limit: tokens of the longest text.

    Raises:
        DataError: bad rows, or none left.
    """
    found = preference_rows(config, tokenizer, limit)
    valid = found.valid.prepared if found.valid is not None else None
    rows = Rows(found.train.prepared, valid, found.sample, found.left_out)
    what = "pairs, a chosen and a rejected answer each" if found.train.size == 2 else "judged answers"
    facts = {"examples": f"{len(found.train):,} {what}"}
    if config.reward_model:
        facts["reference"] = "none: a reward model has no reference"
        return Pairs(rows, RewardDataset(found.train, tokenizer.pad_token_id or 0), facts, 0, False)
    dataset, method = AnswerDataset(found.train), method_of(config)
    if dataset.spared.any():
        facts["shared prompts"] = f"{int(dataset.spared.sum()):,} tokens of a pass are computed once for both answers"
    ahead = method.needs_reference and (config.adapter is None or config.precompute_ref_log_probs)
    facts["reference"] = _reference(config, ahead, method.needs_reference, rows)
    return Pairs(rows, dataset, facts, _passes(method.needs_reference, ahead, method.judged), ahead)


def _reference(config: RunConfig, ahead: bool, needed: bool, rows: Rows) -> str:
    if not needed:
        return f"none: {config.rl} has no reference"
    if not ahead:
        return "the model without its adapters: a forward more in each step, no more memory"
    trained = rows.train.stats.trained_tokens + (rows.valid.stats.trained_tokens if rows.valid is not None else 0)
    size = format_size(VALUE_BYTES * trained)
    return f"one pass before the first step; {size} in memory and in RUN/reference, none of it on the GPU"


def _passes(needed: bool, ahead: bool, judged: bool) -> int:
    """Of kto the other prompts' answers go through policy and reference too."""
    each = 0 if ahead or not needed else 1
    return each + (1 + each if judged else 0)


def forward_seconds(shape: Shape, work: Work, card: CardRates) -> float:
    """Seconds of the forward passes of one optimizer step, without gradients, the loss included."""
    layers = (shape.layers - 1) * layer_forward_seconds(shape, work, card)
    layers += layer_forward_seconds(shape, work, card, last=True)
    return work.micro_batches * (layers + head_seconds(shape, work, card, backward=False))
