"""The memory plan of a run that trains the weights themselves on the engine."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import packed_questions
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from whet import api
from whet.console import forget_notices
from whet.data.loader import PackedDataset, collate
from whet.engine.forward import Engine
from whet.engine.memory import activation_peak, fixed_bytes
from whet.engine.rates import H200
from whet.engine.read import read_model
from whet.engine.shape import FullTraining
from whet.engine.spec import ModelSpec
from whet.models.adapters import add_lora
from whet.train import memory_plan
from whet.train.batches import Batches, count_batches
from whet.train.memory_plan import FASTEST, Planner, Wish, shape_of_engine
from whet.train.trainer import WhetTrainer

MIB = 2**20
PLENTY = 2**40


@pytest.fixture(autouse=True)
def _notices_are_said_again() -> None:
    forget_notices()


@pytest.fixture
def model(tiny_llama_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)


@pytest.fixture(scope="module")
def dataset(tiny_llama_dir: Path) -> PackedDataset:
    return packed_questions(AutoTokenizer.from_pretrained(tiny_llama_dir))


def engine_of(model: Any) -> Engine:
    engine = Engine.attach(model)
    assert isinstance(engine, Engine)
    return engine


def batches_of(dataset: PackedDataset, passes: int, size: int = 1) -> Batches:
    found = count_batches(dataset, size, 1, seed=0)
    largest, typical = (work._replace(micro_batches=passes) for work in (found.largest, found.typical))
    return found._replace(largest=largest, typical=typical)


@pytest.mark.parametrize("passes", [1, 2])
def test_the_plan_counts_weights_moments_and_gradients(model: Any, dataset: PackedDataset, passes: int) -> None:
    batches = batches_of(dataset, passes)
    planner = Planner(engine_of(model), {1: batches}, "fastest", PLENTY)
    count, shape = sum(p.numel() for p in model.parameters()), planner.shape
    assert shape.parameters == count and planner.moments == 8 * count
    assert planner.plan.tile is None and set(planner.engine.policies) == {"none"}
    fixed = fixed_bytes(shape, batches.largest.tokens, passes=passes)
    assert planner.plan.peak_bytes == sum(fixed.values()) + activation_peak(
        shape, batches.largest, planner.plan.policies, planner.plan.chunk_rows
    )
    assert planner.plan.peak_bytes > 16 * count


def test_the_optimizer_s_state_is_planned_by_its_name(model: Any, dataset: PackedDataset) -> None:
    engine, batches = engine_of(model), batches_of(dataset, 1)
    count = sum(p.numel() for p in model.parameters())
    plain, none = (Planner(engine, {1: batches}, "none", PLENTY, name).plan for name in ("adamw_torch", "sgd"))
    assert plain.peak_bytes - none.peak_bytes == 8 * count
    assert shape_of_engine(engine, "sgd").full == FullTraining(0)


@pytest.mark.parametrize("trained", ["layers.1", "embed_tokens", "norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_of_the_weights_takes_memory_too(
    model: Any, dataset: PackedDataset, trained: str, dtype: torch.dtype
) -> None:
    """Where the first layer is frozen, the plan takes all weights for frozen: what others take is added to that."""
    for name, parameter in model.to(dtype).named_parameters():
        parameter.requires_grad_(trained in name)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    planners = [Planner(engine_of(model), {1: batches_of(dataset, passes)}, "none", PLENTY) for passes in (1, 2)]
    master, gradients = (0, (4, 4)) if dtype == torch.float32 else (2, (2, 4))
    assert [planner.missing for planner in planners] == [count * (master + 8 + gradient) for gradient in gradients]
    assert all(planner.moments == 8 * count for planner in planners)


def test_whole_copies_beside_adapters_take_memory_too(model: Any, dataset: PackedDataset) -> None:
    """Adapters themselves are in the plan, and two tables, since these copies are not tied; there are three."""
    adapted = add_lora(model, rank=4)
    assert Planner(engine_of(adapted), {1: batches_of(dataset, 1)}, "none", PLENTY).missing == 0
    adapted = add_lora(adapted.unload(), rank=4, modules_to_save=["embed_tokens", "lm_head"])
    table = model.config.vocab_size * model.config.hidden_size
    planner = Planner(engine_of(adapted), {1: batches_of(dataset, 1)}, "none", PLENTY)
    assert planner.missing == 4 * table + 2 * table * (4 + 8)


def test_memory_decides_what_layers_keep(model: Any, dataset: PackedDataset) -> None:
    engine, batches = engine_of(model), batches_of(dataset, 2, size=6)
    most, least = (Planner(engine, {1: batches}, goal, PLENTY).plan.peak_bytes for goal in ("none", "smallest"))
    tight = Planner(engine, {1: batches}, "fastest", (most + least) // 2)
    assert tight.plan.fits and set(engine.policies) != {"none"}
    while tight.lower():
        assert tight.plan.tile is None
    assert tight.plan.peak_bytes <= 1.01 * least


def merged(dataset: PackedDataset) -> dict[int, Batches]:
    return {1: batches_of(dataset, 2), 2: batches_of(dataset, 1, size=2)}


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where micro-batches go through at once."""
    monkeypatch.setattr(memory_plan, "_card", lambda _: H200)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_pass_for_all_is_kept_at_a_shortage_where_sums_take_more(model: Any, dataset: PackedDataset) -> None:
    """Micro-batches that go one by one need sums of gradients in float32."""
    engine, found = engine_of(model.bfloat16()), merged(dataset)
    alone, together = (Planner(engine, {1: found[times]}, "full", PLENTY).plan.peak_bytes for times in (1, 2))
    assert alone > together
    planner = Planner(engine, found, "fastest", int((alone + together) / 2 * H200.reserved))
    assert planner.plan.at_once == 2 and planner.plan.fits
    lowered = False
    while planner.lower():
        lowered = True
        assert planner.plan.at_once == 2
    assert lowered or set(planner.plan.policies) == {"full"}


@pytest.mark.usefixtures("on_a_gpu")
def test_a_shortage_gives_up_what_costs_least_time(model: Any, dataset: PackedDataset) -> None:
    """Weights that are streamed travel for each pass: layers keep less before passes are more."""
    add_lora(model, rank=2)
    spec = read_model(model)
    assert isinstance(spec, ModelSpec), spec
    planner = Planner(Engine(spec, "none", streamed=True), merged(dataset), "fastest", PLENTY)
    assert planner.plan.at_once == 2 and set(planner.plan.policies) == {"none"}
    planner.budget = planner.plan.reserved_bytes
    assert planner.lower()
    assert planner.plan.at_once == 2 and set(planner.plan.policies) != {"none"}
    while planner.lower():
        pass
    assert planner.plan.at_once == 1 and planner.plan.policies == ("full", "none")  # the last one's are needed anyway


@pytest.mark.usefixtures("on_a_gpu")
def test_micro_batches_that_go_one_by_one_stay_so(model: Any, dataset: PackedDataset) -> None:
    """The loop has made the step's batches by then."""
    found = merged(dataset)
    planner = Planner(engine_of(model), found, "fastest", PLENTY)
    planner.plan = replace(planner.plan, at_once=1)
    planner.budget = planner.plan.peak_bytes
    while planner.lower():
        assert planner.plan.at_once == 1


def trainer_of(model: Any, dataset: PackedDataset, folder: Path, wish: Wish = FASTEST) -> WhetTrainer:
    args = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        max_steps=3,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=3,
    )
    return WhetTrainer(model, args, dataset, partial(collate, pad_id=0), None, interruptible=False, wish=wish)


def test_every_plan_trains_the_same(tiny_llama_dir: Path, dataset: PackedDataset, tmp_path: Path) -> None:
    found = []
    for wish in (FASTEST, Wish("full"), Wish("mlp"), Wish(max_memory=MIB)):
        model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
        trainer = trainer_of(model, dataset, tmp_path, wish)
        assert trainer.forward == "engine"
        trainer.train()
        assert trainer.memory is not None and trainer.memory.planner is not None
        assert (set(trainer.memory.planner.plan.policies) == {"none"}) == (wish is FASTEST)
        found.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert found[0][-1] < found[0][0] and all(losses == found[0] for losses in found)


@pytest.mark.parametrize("adapter", ["lora", None])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_verb_plans_what_training_plans(
    tmp_path: Path, tiny_llama_dir: Path, adapter: str | None, accumulation: int
) -> None:
    rows = [{"prompt": f"{a} and {b}?\n", "completion": "one two three"} for a in range(4) for b in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys: dict[str, Any] = {
        "base_model": str(tiny_llama_dir),
        "datasets": [{"path": str(tmp_path / "rows.jsonl")}],
        "adapter": adapter,
        "sequence_len": 64,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": accumulation,
        "bf16": False,
        "max_steps": 1,
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "c.yml").write_text(yaml.safe_dump({key: value for key, value in keys.items() if value is not None}))
    plan = api.plan(tmp_path / "c.yml").plan
    run = api.train(tmp_path / "c.yml")
    memory = json.loads((run / "manifest.json").read_text())["memory"]
    assert plan is not None and memory["planned_peak_bytes"] == plan.peak_bytes
    assert memory["layers_keep"] == str(plan)
