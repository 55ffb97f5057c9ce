"""Full fine-tuning where memory ends: what the probe counts, how much is recomputed, a micro-batch that runs again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import without_engine
from test_full import Masters, cosine, masters_after, tiny
from test_full import prepared as prepared  # a fixture
from test_trainer import trainer_of
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from whet import console
from whet.data.loader import Prepared
from whet.engine.rates import H200
from whet.errors import TrainingError
from whet.models.recompute import kept_layers
from whet.train import memory_plan
from whet.train.masters import MasterOptimizer
from whet.train.memory import ROOM, Memory
from whet.train.shortage import again_with_less
from whet.train.trainer import WhetTrainer

MIB = 2**20
LESS = ["3 x mlp, 1 x none", "3 x full, 1 x none"]  # the last layer's activations are needed anyway
MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. More words"


@pytest.fixture(autouse=True)
def _new_notices() -> None:
    console.forget_notices()


def own(folder: Path) -> Any:
    """The tiny Llama, trained by its own forward."""
    return without_engine(tiny(folder))


class Fails:
    """A hook of a weight of the first layer: memory ends in the backward, after gradients above it were added."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.number = calls, 0

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self.number += 1
        if self.number in self.calls:
            raise torch.OutOfMemoryError(MESSAGE)
        return gradient


def full_run(model: Any, folder: Path, prepared: Prepared, accumulate: int, *calls: int, **more: Any) -> WhetTrainer:
    options: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-4, "max_grad_norm": 1.0, "accumulate": accumulate}
    trainer = trainer_of(model, prepared, folder, use_cpu=True, **options, **more)  # no memory to try
    if calls:
        model.model.layers[0].mlp.up_proj.weight.register_hook(Fails(*calls))
    return trainer


@pytest.fixture
def narrow(tiny_llama_dir: Path) -> Callable[[], Any]:
    """Makes the same Llama each time, four layers deep: of its memory, activations are the most and not masters."""
    sizes = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    vocab = AutoConfig.from_pretrained(tiny_llama_dir).vocab_size

    def make() -> Any:
        torch.manual_seed(0)
        config = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=vocab, tie_word_embeddings=True)
        return LlamaForCausalLM(config).bfloat16()

    return make


@pytest.mark.parametrize(("accumulate", "call"), [(1, 2), (3, 5)])
@pytest.mark.usefixtures("apart")
def test_a_shortage_of_the_engine_repeats_the_micro_batch(
    accumulate: int,
    call: int,
    narrow: Callable[[], Any],
    tmp_path: Path,
    prepared: Prepared,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The masters end where they would have without: bit for bit, layers that keep less compute the same."""
    wanted = masters_after(full_run(narrow(), tmp_path / "a", prepared, accumulate, micro=8))
    trainer = full_run(narrow(), tmp_path / "b", prepared, accumulate, call, micro=8)
    assert trainer.forward == "engine"
    kept = trainer._plan().facts()["layers_keep"]
    found = masters_after(trainer)
    assert all(map(torch.equal, found, wanted))
    assert kept == "4 x none" and trainer.memory is not None
    less = trainer.memory.facts()["layers_keep"]
    assert less in LESS and f"out of memory: layers keep less from now on: {less}" in capsys.readouterr().err


def test_merged_micro_batches_keep_less_and_come_apart(
    narrow: Callable[[], Any],
    tmp_path: Path,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Merged backwards of the second step fail half way until micro-batches go one by one; what failed is not added."""
    monkeypatch.setattr(memory_plan, "_card", lambda _: H200)  # plans are made as for a GPU whose host is slow
    start = [p.detach().float() for p in narrow().parameters()]
    wanted = masters_after(full_run(narrow(), tmp_path / "a", prepared, 2, micro=8))
    console.forget_notices()
    model = narrow()
    trainer = full_run(model, tmp_path / "b", prepared, 2, micro=8)
    assert trainer._plan().at_once == 2
    passes = 0

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes > 1 and trainer.memory is not None and trainer.memory.at_once > 1:
            raise torch.OutOfMemoryError(MESSAGE)
        return gradient

    model.model.layers[0].mlp.up_proj.weight.register_hook(hook)
    found = masters_after(trainer)
    assert cosine(*([m - s for m, s in zip(some, start, strict=True)] for some in (found, wanted))) > 0.99
    assert trainer.memory is not None and trainer.memory.at_once == 1
    said = capsys.readouterr().err
    assert "out of memory: fewer micro-batches go at once from now on: " in said


@pytest.mark.parametrize(("accumulate", "calls"), [(1, (2,)), (3, (5,)), (3, (5, 6))])
def test_a_shortage_of_the_own_forward_repeats_the_micro_batch(
    accumulate: int,
    calls: tuple[int, ...],
    tiny_llama_dir: Path,
    tmp_path: Path,
    prepared: Prepared,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The masters end where they would have without: bit for bit, checkpointing computes the same."""
    wanted = masters_after(full_run(own(tiny_llama_dir), tmp_path / "a", prepared, accumulate))
    trainer = full_run(own(tiny_llama_dir), tmp_path / "b", prepared, accumulate, *calls)
    assert trainer.engine is None
    found = masters_after(trainer)
    assert all(map(torch.equal, found, wanted))
    kept, layers = kept_layers(trainer.model)
    assert layers == 2 and kept == layers - len(calls)
    assert trainer.memory is not None
    assert trainer.memory.facts()["layers_keep"] == f"{kept} x everything, {layers - kept} x inputs"
    assert "out of memory: 1 layers keep everything" in capsys.readouterr().err


def test_a_shortage_that_stays_is_an_error(tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared) -> None:
    trainer = full_run(own(tiny_llama_dir), tmp_path, prepared, 2, *range(1, 20))
    with pytest.raises(TrainingError, match="micro_batch_size"):
        trainer.train()
    assert kept_layers(trainer.model) == (0, 2)


def test_a_shortage_of_the_engine_that_stays_is_an_error(
    narrow: Callable[[], Any], tmp_path: Path, prepared: Prepared
) -> None:
    trainer = full_run(narrow(), tmp_path, prepared, 2, *range(1, 20), micro=8)
    with pytest.raises(TrainingError, match="micro_batch_size"):
        trainer.train()
    assert trainer.memory is not None and trainer.memory.facts()["layers_keep"] in LESS
    places = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    assert len(places) == len(list(trainer.model.parameters()))  # the weights are the model's own again


def test_without_a_way_back_nothing_is_repeated() -> None:
    calls = []

    def step() -> None:
        calls.append(1)
        raise torch.OutOfMemoryError(MESSAGE)

    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        again_with_less(step, lambda: pytest.fail("lowered"), None)
    assert len(calls) == 1


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("model", [tiny, own])
@pytest.mark.usefixtures("apart")
def test_the_probe_finds_room_beside_earlier_gradients(
    model: Callable[[Path], Any],
    short: bool,
    accumulate: int,
    tiny_llama_dir: Path,
    tmp_path: Path,
    prepared: Prepared,
) -> None:
    """In its forward there are float32 sums where a step has several micro-batches; after it nothing is left."""
    trainer = full_run(model(tiny_llama_dir), tmp_path, prepared, accumulate)
    assert (trainer.engine is None) == (model is own)
    trainer.create_optimizer()
    trainer.memory = trainer._plan()
    masters, seen = trainer.masters, []
    assert isinstance(masters, MasterOptimizer)
    inner = trainer._loss_sum

    def watched(*given: Any) -> torch.Tensor:
        seen.append([g.dtype for p in masters.pieces if (g := masters.gradient(p)) is not None])
        return inner(*given)

    trainer._loss_sum = watched  # type: ignore[method-assign]
    if short:
        trainer.model.model.layers[0].mlp.up_proj.weight.register_hook(Fails(1))
        with pytest.raises(torch.OutOfMemoryError):
            trainer._probe(trainer.model)
    else:
        trainer._probe(trainer.model)
    assert seen == [[] if accumulate == 1 else [torch.float32] * len(masters.pieces)]
    assert all(masters.gradient(p) is None for p in masters.pieces)


def test_what_comes_after_the_probe_is_counted(
    tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card of 100 MiB, 30 for each layer that keeps everything, 20 for the rest, and moments to come."""
    trainer = full_run(own(tiny_llama_dir), tmp_path, prepared, 1)
    memory = Memory(None, trainer.model, {1: trainer._plan().batches}, "fastest", 100 * MIB)

    def measure() -> int:
        return (20 + 30 * kept_layers(trainer.model)[0]) * MIB

    memory._recompute_if_needed(measure, int(ROOM * 100 - 80) * MIB)
    assert kept_layers(trainer.model) == (2, 2)
    memory._recompute_if_needed(measure, int(ROOM * 100 - 80 + 1) * MIB)
    assert kept_layers(trainer.model) == (1, 2)
    assert "takes 94 MiB; it is used for 1 of 2 layers" in capsys.readouterr().err


def test_moments_of_a_checkpoint_are_not_counted_twice(
    tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(Memory, "settle", _noting(seen))
    options: dict[str, Any] = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "use_cpu": True}
    trainer_of(tiny(tiny_llama_dir), prepared, tmp_path, **options).train()
    again = trainer_of(tiny(tiny_llama_dir), prepared, tmp_path, **options, callbacks=[Masters()])
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert seen == [True, False]


def _noting(seen: list[bool]) -> Any:
    inner = Memory.settle

    def settle(self: Memory, probe: Any, not_yet: bool, moment: int = 8) -> None:
        seen.append(not_yet)
        inner(self, probe, not_yet, moment)

    return settle
