"""Settings that are right alone and wrong together. Each check names the keys by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from whet.config.keys import RunConfig


class Conflict(NamedTuple):
    """``key`` is where the message points; the other fields are as in :class:`whet.errors.WhetError`."""

    key: str
    given: str
    fix: str


def conflicts(config: RunConfig) -> Iterator[Conflict]:
    """Every contradiction in ``config``."""
    yield from _precision(config)
    yield from _twice(config)
    yield from _validation(config)
    yield from _template(config)
    yield from _reward(config)


def _reward(config: RunConfig) -> Iterator[Conflict]:
    if config.reward_model and config.rl is not None:
        given = f"reward_model: true and rl: {config.rl}"
        yield Conflict("reward_model", given, "keep one of them: a reward model is trained from pairs without rl")


def _precision(config: RunConfig) -> Iterator[Conflict]:
    if config.bf16 is True and config.fp16:
        yield Conflict("fp16", "bf16 and fp16 are both true", "keep one of them")
    if config.load_in_4bit and config.adapter is None:
        yield Conflict(
            "load_in_4bit", "load_in_4bit needs an adapter: 4-bit weights cannot be trained", "set adapter: qlora"
        )
    if config.adapter == "qlora" and "load_in_4bit" in config.model_fields_set and not config.load_in_4bit:
        yield Conflict(
            "load_in_4bit", "adapter: qlora and load_in_4bit: false", "set adapter: lora, or remove load_in_4bit"
        )
    if config.stream_weights and (config.adapter == "qlora" or config.load_in_4bit):
        other = "adapter: qlora" if config.adapter == "qlora" else "load_in_4bit: true"
        fix = "keep one of them: weights that are streamed have 16 bits"
        yield Conflict("stream_weights", f"stream_weights: true and {other}", fix)
    elif config.stream_weights and config.adapter is None:
        given = "stream_weights needs an adapter: weights in main memory cannot be trained"
        yield Conflict("stream_weights", given, "set adapter: lora")
    elif config.stream_weights and config.lora_dropout:
        given = f"stream_weights: true and lora_dropout: {config.lora_dropout:g}"
        yield Conflict("stream_weights", given, "set lora_dropout: 0: only the engine streams, and it has no dropout")


def _twice(config: RunConfig) -> Iterator[Conflict]:
    pairs = [
        ("saves_per_epoch", "save_steps"),
        ("evals_per_epoch", "eval_steps"),
        ("warmup_steps", "warmup_ratio"),
    ]
    for one, other in pairs:
        if getattr(config, one) is not None and getattr(config, other) is not None:
            yield Conflict(other, f"{one} and {other} are both set", "keep one of them")
    for kind in ("save", "eval"):
        strategy = getattr(config, f"{kind}_strategy")
        steps, per_epoch = getattr(config, f"{kind}_steps"), getattr(config, f"{kind}s_per_epoch")
        if strategy in ("no", "epoch") and (steps is not None or per_epoch):
            named = f"{kind}_steps" if steps is not None else f"{kind}s_per_epoch"
            yield Conflict(
                f"{kind}_strategy", f"{kind}_strategy: {strategy} and {named} are both set", "keep one of them"
            )
        if strategy == "steps" and steps is None and not per_epoch:
            yield Conflict(f"{kind}_strategy", f"{kind}_strategy: steps without {kind}_steps", f"set {kind}_steps")
        if steps is not None and steps > 1 and steps != int(steps):
            yield Conflict(f"{kind}_steps", f"{kind}_steps is {steps:g}", "give a whole number, or a share below 1")
    if config.train_on_inputs and config.train_on in ("assistant", "last"):
        yield Conflict("train_on", f"train_on: {config.train_on} and train_on_inputs: true", "keep one of them")
    if config.lora_target_modules and config.lora_target_linear:
        yield Conflict(
            "lora_target_modules", "lora_target_modules and lora_target_linear are both set", "keep one of them"
        )


def _validation(config: RunConfig) -> Iterator[Conflict]:
    has_rows = config.test_datasets is not None or config.val_set_size > 0
    if config.test_datasets is not None and config.val_set_size > 0:
        yield Conflict("val_set_size", "test_datasets and val_set_size are both set", "keep one of them")
    if config.val_set_size > 1 and config.val_set_size != int(config.val_set_size):
        yield Conflict(
            "val_set_size", f"val_set_size is {config.val_set_size:g}", "give a share below 1 or a whole number"
        )
    asked = [
        key
        for key, wanted in [
            ("evals_per_epoch", config.evals_per_epoch),
            ("eval_steps", config.eval_steps),
            ("eval_strategy", config.eval_strategy not in (None, "no")),
        ]
        if wanted
    ]
    if asked and not has_rows:
        yield Conflict(
            asked[0], f"{asked[0]} is set, but there are no validation rows", "set val_set_size or test_datasets"
        )


def _template(config: RunConfig) -> Iterator[Conflict]:
    if config.chat_template == "jinja" and config.chat_template_jinja is None:
        yield Conflict("chat_template", "chat_template: jinja without chat_template_jinja", "set chat_template_jinja")
    if config.chat_template not in ("jinja", "tokenizer_default") and config.chat_template_jinja is not None:
        given = f"chat_template: {config.chat_template} and chat_template_jinja are both set"
        yield Conflict("chat_template", given, "keep one of them")
    if config.use_wandb and not config.wandb_project:
        yield Conflict("use_wandb", "use_wandb without wandb_project", "set wandb_project")
