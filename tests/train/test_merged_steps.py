"""Several micro-batches of a step at once: when, and that nothing but the speed changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import question
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, TrainingArguments

from whet.console import forget_notices
from whet.data.loader import PackedDataset, PaddedDataset, collate, collate_padded, prepare
from whet.data.records import PairRecord
from whet.data.tokens import encode_records
from whet.engine.memory import Work
from whet.engine.plan import MERGED_TOKENS, Plan, Works, choose_merged
from whet.engine.rates import H200
from whet.engine.shape import Shape, shape_of_config
from whet.models.adapters import add_lora
from whet.train import memory_plan
from whet.train.batches import count_batches, count_merged
from whet.train.joined import joined
from whet.train.memory import ROOM, Memory
from whet.train.memory_plan import FASTEST, Wish
from whet.train.trainer import WhetTrainer

GIB = 2**30
LENGTH = 64


def shape_8b(storage: Any = "dense") -> Shape:
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
    config = LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=8)
    found = shape_of_config(config, rank=16, storage=storage)
    assert isinstance(found, Shape)
    return found


def works(tokens: int, accumulation: int = 4) -> dict[int, Works]:
    found = {}
    for times in (k for k in range(1, accumulation + 1) if accumulation % k == 0):
        work = Work(times * tokens, times * tokens, times * tokens**2, accumulation // times, True)
        found[times] = Works(work, work)
    return found


def plan_of(tokens: int, budget: int, goal: Any = "fastest", accumulation: int = 4, **changes: Any) -> Plan:
    return choose_merged(shape_8b(), works(tokens, accumulation), budget, replace(H200, **changes), goal)


def test_small_micro_batches_go_through_at_once() -> None:
    small = plan_of(1024, 75 * GIB)
    assert small.at_once == 4 and set(small.policies) == {"none"} and "4 micro-batches at once" in str(small)
    assert plan_of(1024, 75 * GIB, accumulation=1).at_once == 1
    large = plan_of(4096, 75 * GIB)  # the GPU has enough to do
    assert large.at_once == 1 and "at once" not in str(large)
    assert plan_of(1024, 75 * GIB, layer_host=0.0).at_once == 1  # as on a CPU: nothing waits for its host


@pytest.mark.parametrize("goal", ["smallest", "none", "mlp", "full"])
def test_only_the_fastest_plan_merges(goal: str) -> None:
    assert plan_of(1024, 75 * GIB, goal).at_once == 1


@pytest.mark.parametrize("gib", [18, 20, 22, 24, 28, 32, 75])
def test_merging_stays_within_memory_and_is_faster(gib: int) -> None:
    """Where layers would have to make more again than merging saves, it is left."""
    budget, found = gib * GIB, plan_of(2048, gib * GIB)
    alone = choose_merged(shape_8b(), {1: works(2048)[1]}, budget, H200)
    assert found.fits == alone.fits and (not found.fits or found.reserved_bytes <= budget)
    assert found.at_once == 1 or found.step_seconds < 0.98 * alone.step_seconds
    assert {choice.name for choice in found.alternatives} == {"smallest", "none", "mlp", "full"}


def test_memory_decides() -> None:
    assert [plan_of(1024, int(gib * GIB)).at_once for gib in (17, 17.7, 75)] == [1, 2, 4]


@pytest.fixture(scope="module")
def rows(tiny_llama_dir: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    questions = [question(a, b) for a in range(8) for b in range(6)][:-1]
    records = [PairRecord(row["prompt"], row["completion"]) for row in questions]
    return prepare(encode_records(tokenizer, records), LENGTH)


@pytest.fixture(params=["packed", "padded"])
def dataset(request: pytest.FixtureRequest, rows: Any) -> Any:
    return PackedDataset(rows, LENGTH) if request.param == "packed" else PaddedDataset(rows)


def collate_of(dataset: Any) -> Callable[..., Any]:
    return partial(collate_padded if isinstance(dataset, PaddedDataset) else collate, pad_id=3)


def test_merged_micro_batches_are_counted(dataset: Any) -> None:
    found = count_merged(dataset, 1, 6, 0, 6)
    assert list(found) == [1, 2, 3, 6] and list(count_merged(dataset, 1, 6, 0, 1)) == [1]
    make, random = collate_of(dataset), np.random.default_rng(0)
    for times, batches in found.items():
        for _ in range(10):
            batch = joined([make([dataset[int(item)]]) for item in random.permutation(len(dataset))[:times]])
            assert batch["input_ids"].numel() <= batches.largest.tokens
            assert batch["layout"].labelled <= batches.largest.labelled
        assert batches.typical.micro_batches == 6 // times
        assert batches.typical.tokens == pytest.approx(times * count_batches(dataset, 1, 6, 0).typical.tokens)
    huge = replace_lengths(dataset)
    assert max(batches.largest.tokens for batches in count_merged(huge, 1, 60, 0, 60).values()) <= MERGED_TOKENS


def replace_lengths(dataset: Any) -> Any:
    """The same rows, as if they were 100 times as long."""
    made = PaddedDataset(dataset.prepared)
    parts: Any = SimpleNamespace(**{**vars(dataset.prepared), "lengths": dataset.prepared.lengths * 100})
    made.prepared = parts
    return made


class Run:
    """Trains the tiny model; ``watch`` sees how many tokens go through at a time."""

    def __init__(self, model: Any, dataset: Any, folder: Path, merge: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model, self.dataset, self.folder, self.merge, self.monkeypatch = model, dataset, folder, merge, monkeypatch
        self.rows: list[int] = []

    def trainer(self, wish: Wish = FASTEST, **changes: Any) -> WhetTrainer:
        settings: dict[str, Any] = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "max_steps": -1}
        settings |= {"num_train_epochs": 1, "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no"}
        args = TrainingArguments(str(self.folder), use_cpu=True, seed=3, report_to="none", **{**settings, **changes})
        made = WhetTrainer(self.model, args, self.dataset, collate_of(self.dataset), None, wish=wish)
        card = H200 if self.merge else replace(H200, layer_host=0.0)
        self.monkeypatch.setattr(memory_plan, "_card", lambda _: card)
        assert made.engine is not None
        loss_sum, rows = made.engine.loss_sum, self.rows

        def watched(*given: Any) -> torch.Tensor:
            rows.append(int((given[1] == 0).sum()))
            return loss_sum(*given)

        made.engine.loss_sum = watched  # type: ignore[method-assign]
        return made


@pytest.fixture
def run_of(tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    def make(dataset: Any, merge: bool) -> Run:
        torch.manual_seed(0)
        model = add_lora(AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32), rank=4, seed=1)
        return Run(model, dataset, tmp_path, merge, monkeypatch)

    return make


def losses(trainer: WhetTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def adapters(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def test_an_epoch_with_a_remainder_trains_the_same(dataset: Any, run_of: Callable[..., Run]) -> None:
    assert len(dataset) % 4
    found = []
    for merge in (False, True):
        run = run_of(dataset, merge)
        trainer = run.trainer()
        trainer.train()
        found.append((trainer, run))
    (one, plain), (four, merged) = found
    assert one.memory is not None and four.memory is not None
    assert (one.memory.at_once, four.memory.at_once) == (1, 4)
    assert len(plain.rows) == len(dataset) and len(merged.rows) == -(-len(dataset) // 4)
    assert sum(plain.rows) == sum(merged.rows)
    assert one.state.global_step == four.state.global_step == len(merged.rows)
    assert losses(four) == pytest.approx(losses(one), rel=1e-5)
    assert torch.allclose(adapters(merged.model), adapters(plain.model), atol=2e-5)
    assert one.meter.tokens == four.meter.tokens and one.meter.trained == four.meter.trained


def test_a_run_goes_on_with_another_number(rows: Any, run_of: Callable[..., Run], tmp_path: Path) -> None:
    """Stopped merged, resumed one by one and the other way round; the checkpoint says what the user said."""
    dataset = PackedDataset(rows, LENGTH)
    whole = run_of(dataset, False)
    trainer = whole.trainer()
    trainer.train()
    last = trainer.state.global_step
    for first, then in ((True, False), (False, True)):
        begun = run_of(dataset, first).trainer(save_strategy="steps", save_steps=last - 1)
        begun.train()
        point = tmp_path / f"checkpoint-{last - 1}"
        assert json.loads((point / "trainer_state.json").read_text())["train_batch_size"] == 1
        again = run_of(dataset, then)
        resumed = again.trainer()
        resumed.train(resume_from_checkpoint=str(point))
        assert resumed.memory is not None and resumed.memory.at_once == (4 if then else 1)
        assert len(again.rows) == (1 if then else len(dataset) - 4 * (last - 1))
        assert losses(resumed) == pytest.approx(losses(trainer), rel=1e-5)
        assert torch.allclose(adapters(again.model), adapters(whole.model), atol=2e-5)


@pytest.mark.parametrize("call", [1, 2])
def test_a_shortage_takes_them_apart(
    rows: Any, call: int, run_of: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Merged backwards fail half way, whatever layers keep: the step is repeated one by one, and so are later ones."""
    dataset = PackedDataset(rows, LENGTH)
    expected = run_of(dataset, False).trainer(max_steps=3)
    expected.train()
    forget_notices()
    run = run_of(dataset, True)
    trainer = run.trainer(max_steps=3)
    assert trainer.engine is not None
    first, calls, tried = trainer.engine.layers[0].qkv, 0, call - 1
    product = first.dgrad

    def fails(*given: Any, **named: Any) -> torch.Tensor:
        nonlocal calls, tried
        calls += 1
        if calls >= call and trainer.memory is not None and trainer.memory.at_once > 1:
            tried += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. More words")
        return product(*given, **named)

    first.dgrad = fails  # type: ignore[method-assign]
    trainer.train()
    assert trainer.memory is not None and trainer.memory.at_once == 1
    assert len(run.rows) == calls == tried + 4 * (4 - call)
    assert losses(trainer) == pytest.approx(losses(expected), rel=1e-5)
    assert "fewer micro-batches go at once from now on" in capsys.readouterr().err


def test_memory_that_was_asked_for_and_deterministic_runs(rows: Any, run_of: Callable[..., Run]) -> None:
    dataset = PackedDataset(rows, LENGTH)
    planned = run_of(dataset, True).trainer(Wish("smallest"))._plan()
    assert planned.at_once == 1
    torch.use_deterministic_algorithms(True)
    try:
        assert run_of(dataset, True).trainer()._plan().at_once == 1
    finally:
        torch.use_deterministic_algorithms(False)
    assert run_of(dataset, True).trainer()._plan().at_once == 4


@pytest.mark.parametrize(
    ("taken", "coming", "times"), [(20, 0, 6), (20, 33, 3), (20, 54, 2), (20, 74, 1), (None, 0, 1)]
)
def test_the_own_forward_merges_what_one_micro_batch_leaves_room_for(
    rows: Any, tiny_llama_dir: Path, taken: int | None, coming: int, times: int
) -> None:
    """A card of 100 MiB, 10 of them taken before; one micro-batch takes 10 more."""
    batches = count_merged(PackedDataset(rows, LENGTH), 1, 6, 0, 6)
    exact = {k: found._replace(largest=Work(64 * k, 8 * k, 64.0**2 * k)) for k, found in batches.items()}
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    mib = 2**20
    memory = Memory(None, model, exact, "fastest", 100 * mib)
    memory.merge(lambda: taken and taken * mib, 10 * mib, coming * mib)
    assert memory.at_once == times
    if times > 1:  # and the merged one is tried: it takes more than was thought
        answers = iter([int(ROOM * 100 + 1) * mib, 20 * mib])
        memory._recompute_if_needed(lambda: next(answers), 0)
        assert memory.at_once == 1 and next(answers, None) is None and not model.is_gradient_checkpointing
        assert "at once" not in memory.facts()["layers_keep"]
    other = Memory(None, model, exact, "full", 100 * mib)
    other.merge(lambda: pytest.fail("tried"), 0, 0)
    assert other.at_once == 1


def test_the_own_forward_goes_back_at_a_shortage(rows: Any, tiny_llama_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    memory = Memory(None, model, count_merged(PackedDataset(rows, LENGTH), 1, 4, 0, 4), "fastest", GIB)
    memory.merge(lambda: 0, 0, 0)
    assert memory.at_once == 4 and "4 micro-batches at once" in memory.facts()["layers_keep"]
    assert memory.lower() and memory.at_once == 1 and not model.is_gradient_checkpointing
    assert memory.lower() and model.is_gradient_checkpointing
