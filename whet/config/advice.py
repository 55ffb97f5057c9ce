"""Settings that are allowed and probably not meant, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from whet.config.keys import STARTER, Remark, RunConfig


class Rates(NamedTuple):
    """The learning rates that published recipes of a method use, lowest and highest."""

    low: float
    high: float


# Answers: QLoRA (Dettmers et al. 2023) 1e-4 and 2e-4, LoRA recipes up to 1e-3; full fine-tunes 1e-6 to 2e-5.
# Pairs: DPO (Rafailov et al. 2023) 1e-6, Zephyr 5e-7, IPO and KTO 5e-7 to 5e-6, SimPO 3e-7 to 1e-6, ORPO 8e-6;
# with an adapter about ten times as much. Reward models: InstructGPT 9e-6, Tülu 3 3e-6, RLHFlow 2e-6, TRL's example
# 1e-5, with LoRA 1e-4.
RATES = {
    "lora": Rates(1e-5, 2e-3),
    "full": Rates(5e-7, 2e-5),
    "pairs, lora": Rates(5e-7, 1e-4),
    "pairs, full": Rates(1e-7, 1e-5),
    "scores, lora": Rates(5e-6, 1e-3),
    "scores, full": Rates(1e-6, 5e-5),
}
PREFERENCE_KEYS = ("rl_", "dpo_", "rpo_", "orpo_", "simpo_", "cpo_", "kto_", "precompute_ref")
MANY_EPOCHS = 10
LARGE_SCALE = 8  # lora_alpha / lora_r: recipes use 0.5 to 4
LARGE_DECAY = 0.3
LARGE_DROPOUT = 0.3
LARGE_RANK = 256


def advice(config: RunConfig) -> Iterator[Remark]:
    """Everything worth a warning in ``config``."""
    yield from _learning_rate(config)
    yield from _steps(config)
    yield from _adapter(config) if config.adapter is not None else _no_adapter(config)
    yield from _data(config)
    yield from _no_preferences(config)


def _warning(text: str, key: str) -> Remark:
    return Remark("warning", text, key)


def _learning_rate(config: RunConfig) -> Iterator[Remark]:
    method = "reward model" if config.reward_model else config.rl
    part = "full" if config.adapter is None else "lora"
    usual = RATES[f"scores, {part}" if config.reward_model else f"pairs, {part}" if method else part]
    full = f"{method} of all weights" if method else "full fine-tuning"
    what = f"{method or 'training'} with an adapter" if config.adapter else full
    span = f"usual are {usual.low:g} to {usual.high:g}"
    rate = f"learning_rate {config.learning_rate:g}"
    small = config.base_model == STARTER and not method  # 11 million parameters: higher rates are right there
    if config.learning_rate > usual.high and not small:
        why = "the model may forget what it knows" if part == "full" else "the loss may jump or diverge"
        yield _warning(f"{rate} is high for {what}, {why}; {span}", "learning_rate")
    elif config.learning_rate < usual.low:
        yield _warning(f"{rate} is low for {what}, little will change; {span}", "learning_rate")


def _steps(config: RunConfig) -> Iterator[Remark]:
    if config.max_steps is None and config.num_epochs > MANY_EPOCHS:
        text = f"num_epochs {config.num_epochs:g}: after a few passes a model learns its rows by heart"
        yield _warning(f"{text}; watch the validation loss (val_set_size)", "num_epochs")
    if config.warmup_steps and config.max_steps and config.warmup_steps >= config.max_steps:
        text = f"warmup_steps {config.warmup_steps} and max_steps {config.max_steps}"
        yield _warning(f"{text}: training ends before learning_rate is reached", "warmup_steps")
    if config.warmup_ratio is not None and config.warmup_ratio > 0.5:
        text = f"warmup_ratio {config.warmup_ratio:g}: the rate rises for more than half of the run"
        yield _warning(f"{text}; usual is 0.03 to 0.1", "warmup_ratio")
    alone = config.micro_batch_size * config.gradient_accumulation_steps == 1
    if alone and (not config.sample_packing or config.rl or config.reward_model):
        text = "micro_batch_size 1 and gradient_accumulation_steps 1: each step follows one row, and the loss is noisy"
        yield _warning(f"{text}; 8 to 64 rows are usual", "micro_batch_size")
    if config.weight_decay > LARGE_DECAY:
        yield _warning(f"weight_decay {config.weight_decay:g} is high; usual is 0 to 0.1", "weight_decay")


def _adapter(config: RunConfig) -> Iterator[Remark]:
    scale = config.lora_alpha / config.lora_r
    if scale > LARGE_SCALE and not config.peft_use_rslora:
        text = f"lora_alpha {config.lora_alpha} with lora_r {config.lora_r}: the adapter is scaled by {scale:g}"
        yield _warning(f"{text}, which multiplies the learning rate; usual is 0.5 to 4", "lora_alpha")
    if config.lora_r > LARGE_RANK:
        yield _warning(f"lora_r {config.lora_r} takes much memory and rarely helps; usual is 8 to 128", "lora_r")
    if config.lora_dropout > LARGE_DROPOUT:
        yield _warning(f"lora_dropout {config.lora_dropout:g} is high; usual is 0 to 0.1", "lora_dropout")


def _no_adapter(config: RunConfig) -> Iterator[Remark]:
    unused = sorted(key for key in config.model_fields_set if key.startswith(("lora_", "peft_")))
    if unused:
        text = f"adapter is not set: this is full fine-tuning, and {', '.join(unused)} have no effect"
        yield _warning(text, "adapter" if "adapter" in config.model_fields_set else unused[0])
    if config.max_memory is not None:
        text = "adapter is not set: max_memory has no effect, memory is planned for LoRA and QLoRA"
        yield _warning(text, "max_memory")


def _data(config: RunConfig) -> Iterator[Remark]:
    if 0.5 <= config.val_set_size < 1:
        text = f"val_set_size {config.val_set_size:g}: half of the rows or more are kept from training"
        yield _warning(f"{text}; usual is 0.01 to 0.1", "val_set_size")


def _no_preferences(config: RunConfig) -> Iterator[Remark]:
    unused = sorted(key for key in config.model_fields_set if key.startswith(PREFERENCE_KEYS))
    if config.center_rewards_coefficient is not None and not config.reward_model:
        text = "center_rewards_coefficient has no effect without reward_model: true"
        yield _warning(text, "center_rewards_coefficient")
    if config.rl is None and unused:
        yield _warning(f"rl is not set: {', '.join(unused)} have no effect", unused[0])
