"""Full fine-tuning where memory ends: what the probe counts, how much is recomputed, a micro-batch that runs again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_full import Masters, masters_after, tiny
from test_full import prepared as prepared  # a fixture
from test_trainer import trainer_of

from whet import console
from whet.data.loader import Prepared
from whet.errors import TrainingError
from whet.models.recompute import kept_layers
from whet.train.masters import MasterOptimizer
from whet.train.memory import ROOM, Memory
from whet.train.shortage import again_with_less
from whet.train.trainer import WhetTrainer

MIB = 2**20
MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. More words"


@pytest.fixture(autouse=True)
def _new_notices() -> None:
    console.forget_notices()


class Fails:
    """A hook of a weight of the last layer: memory ends in the backward, after gradients above it were added."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.number = calls, 0

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self.number += 1
        if self.number in self.calls:
            raise torch.OutOfMemoryError(MESSAGE)
        return gradient


def full_run(folder: Path, tiny_dir: Path, prepared: Prepared, accumulate: int, *calls: int) -> WhetTrainer:
    options: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-4, "max_grad_norm": 1.0, "accumulate": accumulate}
    trainer = trainer_of(tiny(tiny_dir), prepared, folder, use_cpu=True, **options)  # no memory to try
    if calls:
        trainer.model.model.layers[0].mlp.up_proj.weight.register_hook(Fails(*calls))
    return trainer


@pytest.mark.parametrize(("accumulate", "calls"), [(1, (2,)), (3, (5,)), (3, (5, 6))])
def test_a_shortage_repeats_the_micro_batch(
    accumulate: int,
    calls: tuple[int, ...],
    tiny_llama_dir: Path,
    tmp_path: Path,
    prepared: Prepared,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The masters end where they would have without: bit for bit, checkpointing computes the same."""
    wanted = masters_after(full_run(tmp_path / "a", tiny_llama_dir, prepared, accumulate))
    trainer = full_run(tmp_path / "b", tiny_llama_dir, prepared, accumulate, *calls)
    assert trainer.engine is None
    found = masters_after(trainer)
    assert all(map(torch.equal, found, wanted))
    kept, layers = kept_layers(trainer.model)
    assert layers == 2 and kept == layers - len(calls)
    assert trainer.memory is not None
    assert trainer.memory.facts()["layers_keep"] == f"{kept} x everything, {layers - kept} x inputs"
    assert "out of memory: 1 layers keep everything" in capsys.readouterr().err


def test_a_shortage_that_stays_is_an_error(tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared) -> None:
    trainer = full_run(tmp_path, tiny_llama_dir, prepared, 2, *range(1, 20))
    with pytest.raises(TrainingError, match="micro_batch_size"):
        trainer.train()
    assert kept_layers(trainer.model) == (0, 2)


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
def test_the_probe_finds_room_beside_earlier_gradients(
    short: bool, accumulate: int, tiny_llama_dir: Path, tmp_path: Path, prepared: Prepared
) -> None:
    """In its forward there are float32 sums where a step has several micro-batches; after it nothing is left."""
    trainer = full_run(tmp_path, tiny_llama_dir, prepared, accumulate)
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
    trainer = full_run(tmp_path, tiny_llama_dir, prepared, 1)
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
