"""``whet plan`` for preference training: rows and steps as training makes them, and what the reference costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests_pairs import pair

from whet import api
from whet.data.answer_loader import AnswerDataset, CollateAnswers
from whet.engine.memory import Work, buffer_bytes
from whet.engine.plan import step_seconds
from whet.engine.rates import H200
from whet.engine.shape import Shape
from whet.train.batches import count_batches
from whet.train.preference.plan import forward_seconds
from whet.train.preference.reward import CollateRewards, RewardDataset
from whet.train.preference.rows import pair_rows


@pytest.fixture
def config(tmp_path: Path, write_config: Callable[..., Path]) -> Path:
    lines = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in map(pair, range(14))]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keys: dict[str, Any] = {"datasets": [{"path": str(tmp_path / "pairs.jsonl")}], "max_steps": None, "val_set_size": 2}
    return write_config(tmp_path, **keys, micro_batch_size=3, gradient_accumulation_steps=2, num_epochs=2)


@pytest.mark.parametrize("method", ["rl=dpo", "rl=kto", "reward_model=true"])
@pytest.mark.parametrize("more", [[], ["adapter="]])
def test_steps_and_memory_are_those_of_training(config: Path, method: str, more: list[str]) -> None:
    more = [*more, method, "bf16=false"]
    plan = api.plan(config, overrides=more)
    manifest = json.loads((api.train(config, overrides=more) / "manifest.json").read_text())
    assert plan.steps.count == manifest["steps"]
    assert plan.plan is not None and plan.plan.peak_bytes == manifest["memory"]["planned_peak_bytes"]
    plan.check()


def test_the_reference_costs_time_and_no_memory(config: Path) -> None:
    without, each, ahead = (
        api.plan(config, overrides=more)
        for more in (["rl=orpo"], ["rl=dpo"], ["rl=dpo", "precompute_ref_log_probs=true", "num_epochs=5"])
    )
    assert without.extra_seconds == 0 and each.extra_seconds > 0 and ahead.extra_seconds == 0 < ahead.ahead_seconds
    assert without.plan is not None and each.plan is not None
    assert without.plan.peak_bytes == each.plan.peak_bytes
    assert each.seconds == pytest.approx(each.steps.count * (each.plan.step_seconds + each.extra_seconds))


def test_what_is_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.plan(config, overrides=["rl=dpo", "adapter=", "optimizer=adamw_torch"]).print()
    said = capsys.readouterr().out
    for words in ("12 pairs", "a chosen and a rejected", "one pass before the first step", "moments", "shared prompts"):
        assert words in said
    api.plan(config, overrides=["reward_model=true"]).print()
    assert "a reward model has no reference" in capsys.readouterr().out


def test_a_text_has_one_score(tokenizer: Any) -> None:
    dataset = RewardDataset(pair_rows(tokenizer, [pair(n) for n in range(7)], 128), 0)
    counted = count_batches(dataset, 3, 1, 0)
    batch = CollateRewards(0, flat=True)([dataset[item] for item in counted.widest])
    assert len(batch["ends"]) == counted.largest.labelled == 6 and counted.typical.labelled == round(14 / 3)


def test_micro_batches_are_one_row(tokenizer: Any) -> None:
    dataset = AnswerDataset(pair_rows(tokenizer, [pair(n) for n in range(7)], 128))
    counted = count_batches(dataset, 3, 1, 0)
    batch = CollateAnswers(3, flat=True)([dataset[item] for item in counted.widest])
    assert batch["input_ids"].numel() == counted.largest.tokens and counted.fill == 1


@pytest.mark.parametrize("tokens", [64, 16384])
def test_a_reference_s_forward_moves_streamed_weights_too(tokens: int) -> None:
    """And takes something like half of a step: where nothing is made again, a backward has as many products."""
    work = Work(tokens, tokens, tokens * 64.0, 3, equal=True)
    dense = Shape(4096, 32, 8, 128, 14336, 32, 128256, ((16,) * 3, (16,), (16,) * 2, (16,)))
    streamed, card = replace(dense, storage="streamed"), replace(H200, layer_host=0.0, step_host=0.0)
    travel = 3 * 32 * buffer_bytes(dense) / card.link
    assert forward_seconds(streamed, work, card) >= max(travel, forward_seconds(dense, work, card))
    for shape in (dense, streamed):
        step = step_seconds(shape, work, card, ("none",) * 32)
        assert 0.3 * step < forward_seconds(shape, work, card) < 0.55 * step
