"""Several micro-batches of pairs at once: the same step, and a reference that goes on as it was begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from whet.data.answer_loader import AnswerDataset, CollateAnswers
from whet.data.answer_rows import AnswerRows
from whet.engine.rates import H200
from whet.errors import TrainingError
from whet.train import memory_plan
from whet.train import trainer as trainer_module
from whet.train.batches import Batches, count_merged
from whet.train.joined import joined
from whet.train.preference.dpo import Dpo
from whet.train.preference.kto import Kto
from whet.train.preference.objective import Kept
from whet.train.preference.reward import CollateRewards, RewardDataset
from whet.train.trainer import WhetTrainer


class CaptureGradients(TrainerCallback):
    """Gradients of the first step."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]


class CaptureSums(TrainerCallback):
    """Gradients of the first step, as the optimizer will see them."""

    def __init__(self, trainer: WhetTrainer) -> None:
        self.trainer = trainer
        self.gradients: list[torch.Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        masters = self.trainer.masters
        found = [p.grad if masters is None else masters.gradient(p) for p in model.parameters()]
        self.gradients = self.gradients or [g.float().clone() for g in found if g is not None]


@pytest.fixture
def merge(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on plans are made as for a GPU whose host is slow."""
    return lambda: monkeypatch.setattr(memory_plan, "_card", lambda _: H200)


@pytest.mark.parametrize("method", [Dpo(0.1), Kto(0.3)])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_step_is_the_same(
    method: Any,
    ahead: bool,
    make_model: Callable[..., Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    judged: AnswerRows,
    merge: Callable[[], None],
) -> None:
    rows, found = judged if isinstance(method, Kto) else pairs, []
    for number in (1, 4):
        if number > 1:
            merge()
        trainer = make_trainer(make_model("lora"), rows, method, accumulate=4, flat=True)
        trainer.objective.kept, capture = Kept(ahead=ahead), CaptureGradients()
        trainer.add_callback(capture)
        trainer.train()
        assert trainer.memory.at_once == number
        found.append((next(line for line in trainer.state.log_history if "loss" in line), capture.gradients))
    (one, plain), (four, merged) = found
    for name in ("loss", "kl", *(name for name in one if name.startswith("rewards/"))):
        assert four[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    assert all((a - b).norm() <= 2e-5 * b.norm() for a, b in zip(merged, plain, strict=True) if b.norm() > 0)


def test_what_is_joined_is_what_one_batch_would_be(pairs: AnswerRows, judged: AnswerRows) -> None:
    kinds = [
        (AnswerDataset(pairs), CollateAnswers(3, flat=True)),
        (AnswerDataset(judged), CollateAnswers(3, flat=True)),
    ]
    for dataset, make in [*kinds, (RewardDataset(pairs, 3), CollateRewards(3, flat=True))]:
        items = [dataset[number] for number in range(5)]
        _same(joined([make(items[:1]), make(items[1:3]), make(items[3:])]), make(items))


def _same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            _same(found[name], value)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("kind", ["fresh", "full"])
def test_the_first_merged_step_has_no_margin_and_a_resumed_run_keeps_its_reference(
    kind: str,
    make_model: Callable[..., Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    tmp_path: Path,
    merge: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def trainer_of(resumed: bool = False) -> Any:
        trainer = make_trainer(make_model(kind, torch.bfloat16), pairs, Dpo(0.1), accumulate=4)
        assert trainer.engine is not None
        trainer.objective.kept, trainer._resumed = Kept(tmp_path, ahead=True), resumed
        return trainer

    with monkeypatch.context() as merged:
        merged.setattr(memory_plan, "_card", lambda _: H200)
        trainer = trainer_of()
        trainer.train()
        assert trainer.memory.at_once == 4
        line = next(line for line in trainer.state.log_history if "loss" in line)
        assert line["rewards/margins"] == 0 and line["kl"] == 0
    assert json.loads((tmp_path / "train" / "facts.json").read_text())["items"] == "4"
    again = trainer_of(resumed=True)  # a machine with less memory: one by one
    again.memory = again._plan()
    again._prepare_objective(again.train_dataset)
    assert again.memory.at_once == 1 and f"the reference in {tmp_path / 'train'} is used" in capsys.readouterr().err
    for one, other in zip(trainer.train_dataset.reference, again.train_dataset.reference, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(TrainingError, match="the seed"):
        other = trainer_of(resumed=True)
        other.args.seed += 1
        other._prepare_objective(other.train_dataset)


@pytest.mark.parametrize("fails", [(), (1,), (2,)])
@pytest.mark.parametrize("method", [Dpo(0.1), Kto(0.3)])
@pytest.mark.parametrize("kind", ["full", "full own"])
def test_full_fine_tuning_is_the_same(
    kind: str,
    method: Any,
    fails: tuple[int, ...],
    make_model: Callable[..., Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    judged: AnswerRows,
    merge: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the engine, and by the model's own forward, which is told the documents; memory may end in a merged
    backward."""
    rows, found, steps = judged if isinstance(method, Kto) else pairs, [], []
    merge()
    for number in (1, 2):
        if kind == "full":
            monkeypatch.setattr(trainer_module, "count_merged", _at_most(number))
        else:
            monkeypatch.setattr(WhetTrainer, "_merge_own", _merging(number))
        model = make_model(kind, torch.bfloat16 if fails else torch.float32)
        trainer = make_trainer(model, rows, method, accumulate=4, max_steps=2, optim="adamw_torch", learning_rate=1e-4)
        calls = []

        def ends(gradient: torch.Tensor, seen: list[int] = calls, merged: bool = number > 1) -> torch.Tensor:
            seen.append(1)
            if merged and len(seen) in fails:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More words")
            return gradient

        model.model.layers[0].mlp.up_proj.weight.register_hook(ends)
        sums = CaptureSums(trainer)
        trainer.add_callback(sums)
        trainer.train()
        steps.append(sums.gradients)
        assert (trainer.forward == "engine") == (kind == "full")
        assert trainer.memory.at_once == (1 if fails else number)
        found.append(([line for line in trainer.state.log_history if "loss" in line], len(calls)))
    (one, apart), (two, merged) = found
    assert apart == 8 and merged == (4 if not fails else 1 + 8 if fails == (1,) else 2 + 2 + 4)
    assert len(one) == len(two) == 2
    for alone, together in zip(*steps, strict=True):  # nothing was added twice, nothing is missing
        assert (alone - together).norm() < 0.05 * alone.norm()
    bars = {"rel": 0.05, "abs": 0.05} if fails else {"rel": 1e-3, "abs": 1e-5}  # of bfloat16, which masters need
    for plain, line in zip(one, two, strict=True):
        for name in ("loss", *(name for name in plain if name.startswith("rewards/"))):
            assert line[name] == pytest.approx(plain[name], **bars), name


def _at_most(number: int) -> Callable[..., dict[int, Batches]]:
    """So many micro-batches at once, or one."""

    def count(dataset: Any, micro: int, accumulation: int, seed: int, most: int) -> dict[int, Batches]:
        found = count_merged(dataset, micro, accumulation, seed, most)
        return {times: batches for times, batches in found.items() if times in (1, number)}

    return count


def _merging(number: int) -> Callable[[WhetTrainer], None]:
    def merge(trainer: WhetTrainer) -> None:
        assert trainer.memory is not None and number in trainer.memory._batches
        trainer.memory._own_at_once = number

    return merge


@pytest.mark.parametrize("method", [Dpo(0.1), Kto(0.3)])
@pytest.mark.parametrize("kind", ["full", "full own"])
def test_memory_is_tried_before_there_is_a_reference(
    kind: str,
    method: Any,
    make_model: Callable[..., Any],
    make_trainer: Callable[..., Any],
    pairs: AnswerRows,
    judged: AnswerRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A probe in place of the choice: it goes through, and leaves neither gradients nor figures nor a reference."""
    seen = []

    def probed(trainer: WhetTrainer) -> None:
        trainer._probe(trainer.model)
        seen.append(all(p.grad is None for p in trainer.model.parameters()))
        assert trainer.objective is not None and trainer.objective.training.take() == {}
        assert trainer.train_dataset.reference is None

    rows = judged if isinstance(method, Kto) else pairs
    monkeypatch.setattr(WhetTrainer, "_merge_own", probed)
    trainer = make_trainer(make_model(kind), rows, method, accumulate=4)
    trainer.train()
    assert (trainer.forward == "engine") == (kind == "full")
    assert seen == [True] and trainer.state.global_step == 1 and trainer.train_dataset.reference is not None
