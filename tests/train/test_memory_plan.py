"""Training by the memory plan: what is asked, what the probe corrects, what a shortage does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import packed_questions
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from whet.config.sizes import format_size
from whet.console import forget_notices
from whet.data.loader import PackedDataset, collate
from whet.engine.forward import Engine
from whet.engine.loss import IGNORE
from whet.engine.memory import activation_peak, fixed_bytes, main_memory_bytes
from whet.engine.read import read_model
from whet.engine.spec import ModelSpec
from whet.errors import TrainingError, WhetError
from whet.models.adapters import add_lora
from whet.train.batches import Batches, count_batches
from whet.train.engine import ASKED, goal_of
from whet.train.memory_plan import FASTEST, Planner, Wish, check_main_memory, memory_budget
from whet.train.trainer import WhetTrainer

MIB = 2**20
PLENTY = 2**40


@pytest.fixture(autouse=True)
def _notices_are_said_again() -> None:
    forget_notices()


@pytest.fixture
def model(tiny_llama_dir: Path) -> Any:
    torch.manual_seed(0)
    return add_lora(AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32), rank=4, seed=1)


@pytest.fixture(scope="module")
def dataset(tiny_llama_dir: Path) -> PackedDataset:
    return packed_questions(AutoTokenizer.from_pretrained(tiny_llama_dir))


@pytest.fixture
def batches(dataset: PackedDataset) -> Batches:
    return count_batches(dataset, 2, 1, seed=0)


def planner_of(model: Any, batches: Batches, goal: Any = "fastest", budget: int = PLENTY) -> Planner:
    engine = Engine.attach(model)
    assert isinstance(engine, Engine)
    return Planner(engine, {1: batches}, goal, budget)


def trainer_of(
    model: Any, dataset: PackedDataset, folder: Path, wish: Wish = FASTEST, gpus: int = 0, **settings: Any
) -> WhetTrainer:
    arguments: dict[str, Any] = {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-2}
    arguments |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 3, **settings}
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, **arguments)
    args._n_gpu = gpus
    return WhetTrainer(model, args, dataset, partial(collate, pad_id=0), None, interruptible=False, wish=wish)


def losses(trainer: WhetTrainer) -> list[float]:
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def adapters(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_the_largest_batch_is_counted_as_the_loader_makes_it(dataset: PackedDataset, batches: Batches) -> None:
    made = collate([dataset[item] for item in batches.widest])
    assert made["input_ids"].numel() == batches.largest.tokens
    assert all(
        collate([dataset[i], dataset[j]])["layout"].labelled <= batches.largest.labelled
        for i in range(len(dataset))
        for j in range(i)
    )
    assert batches.number == -(-len(dataset) // 2)


def test_what_is_kept_follows_from_the_budget(model: Any, batches: Batches) -> None:
    planner = planner_of(model, batches)
    assert set(planner.engine.policies) == {"none"} and planner.plan.fits
    shape, largest = planner.shape, batches.largest
    fixed = sum(fixed_bytes(shape, largest.tokens).values())
    everything, least = (
        fixed + activation_peak(shape, largest, (policy,) * shape.layers, 1024) for policy in ("none", "full")
    )
    planner.engine.release()
    tight = planner_of(model, batches, budget=(everything + least) // 2)
    assert set(tight.engine.policies) != {"none"} and tight.plan.fits
    assert tight.engine.chunk_rows == tight.plan.chunk_rows


@pytest.mark.parametrize(("goal", "policy"), [("full", "full"), ("mlp", "mlp"), ("none", "none")])
def test_a_policy_that_was_asked_for(model: Any, batches: Batches, goal: str, policy: str) -> None:
    assert set(planner_of(model, batches, goal).engine.policies) == {policy}


def test_streamed_weights_are_planned_as_such(model: Any, batches: Batches) -> None:
    spec = read_model(model)
    assert isinstance(spec, ModelSpec), spec
    engine = Engine(spec, "none", streamed=True)
    planner = Planner(engine, {1: batches}, "fastest", PLENTY)
    shape = planner.shape
    assert shape.storage == "streamed" and not any(planner.plan.resident)
    planner.settle(lambda: pytest.fail("probed"))
    ids = torch.arange(8)[None]
    assert torch.isfinite(engine.loss_sum(ids, ids, ids))
    main_memory = format_size(main_memory_bytes(shape))
    assert f", weights streamed from {main_memory} of main memory; peak" in str(planner)
    engine.release()
    dense = planner_of(model, batches)
    assert dense.shape == replace(shape, storage="dense") and "streamed" not in str(dense)


def test_main_memory_has_to_suffice() -> None:
    check_main_memory(0, 0)
    check_main_memory(8 * MIB, 10 * MIB)
    with pytest.raises(WhetError, match=r"stream_weights .* in 8 MiB of main memory.*\n?.*at most 7 MiB"):
        check_main_memory(8 * MIB, 9 * MIB)


def test_a_probe_that_takes_more_than_planned_lowers_the_plan(model: Any, batches: Batches) -> None:
    planner = planner_of(model, batches)
    first = planner.plan
    planner.budget = first.peak_bytes + MIB
    seen = []

    def measure() -> int:
        seen.append(planner.plan)
        return planner.plan.peak_bytes + 2 * MIB

    planner.settle(measure)
    assert planner.missing == 2 * MIB and seen[0] == first and seen[-1] == planner.plan
    assert planner.plan.peak_bytes < first.peak_bytes and planner.plan.peak_bytes + 2 * MIB <= planner.budget
    assert planner.engine.policies == list(planner.plan.policies)


def test_a_probe_without_surprise_changes_nothing(model: Any, batches: Batches) -> None:
    planner = planner_of(model, batches)
    first = planner.plan
    planner.budget = first.peak_bytes + 2 * MIB
    planner.settle(lambda: first.peak_bytes)
    assert planner.plan == first and planner.missing == 0 and planner.measured == first.peak_bytes


def test_adapters_gradients_before_a_pass_are_planned_and_not_probed(model: Any, batches: Batches) -> None:
    """Of several passes each has a copy of the gradients so far, for the way back after a shortage."""
    copies = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    alone = planner_of(model, batches)
    alone.engine.release()
    planner = planner_of(model, batches._replace(largest=batches.largest._replace(micro_batches=3)))
    assert planner.plan.peak_bytes == alone.plan.peak_bytes + copies
    planner.budget = planner.plan.peak_bytes + 2 * MIB
    planner.settle(lambda: alone.plan.peak_bytes)
    assert planner.missing == 0
    planner.settle(lambda: alone.plan.peak_bytes + MIB)
    assert planner.missing == MIB


def test_ample_memory_needs_no_probe(model: Any, batches: Batches) -> None:
    planner = planner_of(model, batches)
    planner.settle(lambda: pytest.fail("probed"))
    assert planner.measured is None and set(planner.engine.policies) == {"none"}


def test_a_probe_out_of_memory_lowers_until_it_passes(model: Any, batches: Batches) -> None:
    planner = planner_of(model, batches)
    planner.budget = planner.plan.peak_bytes
    answers = iter([None, None])
    planner.settle(lambda: next(answers, planner.plan.peak_bytes))
    assert next(answers, "used up") == "used up" and set(planner.engine.policies) != {"none"}


def test_a_probe_out_of_memory_is_never_repeated_as_it_was(model: Any, batches: Batches) -> None:
    """Probes run without dense copies of NF4 weights: a plan with fewer of those is none that takes less."""
    planner = planner_of(model, batches)
    planner.shape = replace(planner.shape, storage="nf4")
    planner.budget = planner._choose(planner._batches).reserved_bytes
    planner.plan = planner._choose(planner._batches)
    assert planner.plan.resident_bytes > 0.1 * planner.budget
    tried = []

    def measure() -> None:
        tried.append((planner.plan.policies, planner.plan.tile, planner.plan.chunk_rows))

    planner.settle(measure)
    assert len(tried) == len(set(tried)) > 2


def test_nothing_is_left_to_give_up(model: Any, batches: Batches) -> None:
    planner = planner_of(model, batches)
    planner.budget = planner.plan.peak_bytes
    steps = 0
    while planner.lower():
        steps += 1
    assert 0 < steps < 100
    assert planner.plan.peak_bytes <= 1.01 * min(choice.peak_bytes for choice in planner.plan.alternatives)


def test_every_plan_trains_the_same(model: Any, dataset: PackedDataset, tmp_path: Path) -> None:
    start = adapters(model)
    wanted = losses(trainer_of(model, dataset, tmp_path))
    assert wanted[-1] < wanted[0]
    for wish in (Wish("full"), Wish("mlp"), Wish(max_memory=8 * MIB), Wish("smallest")):
        model.load_state_dict(start, strict=False)
        trainer = trainer_of(model, dataset, tmp_path, wish)
        assert losses(trainer) == wanted, wish
        assert trainer.memory is not None and trainer.memory.planner is not None
        assert set(trainer.memory.planner.plan.policies) != {"none"}


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_shortage_in_a_backward_repeats_the_micro_batch(
    model: Any, dataset: PackedDataset, tmp_path: Path, accumulation: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backward fails half way, after some layers have added to their gradients: the result is as without."""
    start = adapters(model)
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation}
    wanted = losses(trainer_of(model, dataset, tmp_path, **settings))
    model.load_state_dict(start, strict=False)
    trainer = trainer_of(model, dataset, tmp_path, **settings)
    assert trainer.engine is not None
    failing = FailsOnce(trainer, call=4)
    trainer.engine.layers[0].qkv.dgrad = failing  # type: ignore[method-assign]
    assert losses(trainer) == wanted
    assert failing.calls > failing.call
    assert trainer.memory is not None and trainer.memory.planner is not None
    assert set(trainer.memory.planner.plan.policies) != {"none"}
    assert "keep less" in capsys.readouterr().err


class FailsOnce:
    """The first layer's last product, which runs out of memory at one call: the layers above have their gradients."""

    def __init__(self, trainer: WhetTrainer, call: int) -> None:
        assert trainer.engine is not None
        self.trainer, self.call, self.calls = trainer, call, 0
        self.product = trainer.engine.layers[0].qkv.dgrad

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.call:
            planner = self.trainer.memory.planner  # type: ignore[union-attr]
            planner.budget = planner.plan.peak_bytes  # type: ignore[union-attr]
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More words")
        return self.product(*args, **kwargs)


def test_a_shortage_that_stays_is_an_error_with_advice(model: Any, dataset: PackedDataset, tmp_path: Path) -> None:
    trainer = trainer_of(model, dataset, tmp_path)
    assert trainer.engine is not None

    def fails(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More words")

    trainer.engine.layers[0].qkv.dgrad = fails  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="micro_batch_size"):
        trainer.train()


def test_of_several_gpus_one_is_used(model: Any, dataset: PackedDataset, tmp_path: Path) -> None:
    """torch's DataParallel around the model would hide it from the engine."""
    start = adapters(model)
    wanted = losses(trainer_of(model, dataset, tmp_path))
    model.load_state_dict(start, strict=False)
    trainer = trainer_of(model, dataset, tmp_path, gpus=2)
    assert losses(trainer) == wanted and trainer.model_wrapped is model


def test_validation_takes_no_more_rows_at_once_than_training(
    model: Any, dataset: PackedDataset, tmp_path: Path
) -> None:
    found = []
    for rows in (2, 5):
        trainer = trainer_of(model, dataset, tmp_path, per_device_eval_batch_size=rows)
        assert trainer.engine is not None
        sizes: list[int] = []
        loss_sum = trainer.engine.loss_sum

        def watched(ids_BS: torch.Tensor, *rest: Any, call: Any = loss_sum, seen: list[int] = sizes) -> torch.Tensor:
            seen.append(len(ids_BS))
            return call(ids_BS, *rest)

        trainer.engine.loss_sum = watched  # type: ignore[method-assign]
        found.append(trainer.evaluate(dataset))
        assert max(sizes) == 2
        trainer.engine.release()
    assert found[0]["eval_tokens"] == found[1]["eval_tokens"] == dataset.prepared.stats.trained_tokens
    assert found[0]["eval_loss"] == pytest.approx(found[1]["eval_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("asked", "goal"),
    [(True, "full"), (False, "none"), ("auto", "fastest"), ("unsloth", "smallest"), (None, "fastest")],
)
def test_where_the_wish_comes_from(model: Any, tmp_path: Path, asked: Any, goal: str) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    setattr(model, ASKED, asked)
    assert goal_of(model, args) == goal
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert goal_of(model, args) == ("full" if asked is None else goal)


def test_the_budget_of_a_cpu_is_what_is_free() -> None:
    here = memory_budget(torch.device("cpu"), None)
    assert 2**28 < here < 2**44
    assert memory_budget(torch.device("cpu"), MIB) == MIB


def test_layout_saves_reading_back(dataset: PackedDataset, model: Any) -> None:
    """Rows and lengths from the loader are those that the engine would find itself."""
    engine = Engine.attach(model)
    assert isinstance(engine, Engine)
    batch = collate([dataset[0], dataset[1]])
    tensors = batch["input_ids"], batch["position_ids"], batch["labels"]
    given = engine.loss_sum(*tensors, batch["rows"], batch["layout"].lengths)
    assert torch.equal(given, engine.loss_sum(*tensors))
    assert batch["layout"].labelled == int((batch["labels"][:, 1:] != IGNORE).sum())
    engine.release()
