"""Which checkpoint a run goes on from, and a whole run that is stopped, resumed and compared."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import STEPS, metrics_of, start

from whet import api, console
from whet.train.checkpoint import is_complete, newest_complete, remove_incomplete

WriteConfig = Callable[..., Path]
LONG = 150  # steps of the run that is stopped


@pytest.fixture
def checkpoints(lora_run: Path, tmp_path: Path) -> Path:
    """A copy of a real run's checkpoints 2, 4 and 6."""
    return shutil.copytree(lora_run / "checkpoints", tmp_path / "checkpoints")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_the_newest_is_found_by_number_not_by_name(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-4").rename(checkpoints / "checkpoint-10")
    assert newest_complete(checkpoints) == checkpoints / "checkpoint-10"


def test_other_things_in_the_folder_are_no_checkpoints(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-best").mkdir()
    (checkpoints / "checkpoint-99").write_text("a file")
    assert newest_complete(checkpoints) == checkpoints / "checkpoint-6"


@pytest.mark.parametrize(
    "damage", ["cut weights", "no weights", "no state", "cut state", "no optimizer", "no scheduler"]
)
def test_an_incomplete_one_is_passed_over(checkpoints: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.forget_notices()
    newest = checkpoints / "checkpoint-6"
    what, file = damage.split()
    name = {"weights": "adapter_model.safetensors", "state": "trainer_state.json"}.get(file, f"{file}.pt")
    (cut if what == "cut" else Path.unlink)(newest / name)
    assert not is_complete(newest)
    assert newest_complete(checkpoints) == checkpoints / "checkpoint-4"
    assert f"{newest} is incomplete and is passed over" in capsys.readouterr().err


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None
    assert newest_complete(tmp_path / "none") is None


def test_what_a_failed_write_left_is_removed(checkpoints: Path) -> None:
    cut(checkpoints / "checkpoint-6" / "adapter_model.safetensors")
    remove_incomplete(checkpoints)
    assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_resume_goes_on_from_the_newest_complete_one(
    lora_run: Path, tmp_path: Path, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps 5 and 6 again, from checkpoint 4, give the adapter of the whole run."""
    console.forget_notices()
    run = shutil.copytree(lora_run, tmp_path / "run")
    cut(run / "checkpoints" / "checkpoint-6" / "adapter_model.safetensors")
    shutil.rmtree(run / "adapter")
    api.train(write_config(tmp_path, save_steps=2, eval_steps=3, val_set_size=5, logging_steps=2), resume=True)
    said = capsys.readouterr().err
    assert "checkpoint-6 is incomplete" in said and "going on from" in said and "checkpoint-4" in said
    assert all(torch.equal(value, adapter(lora_run)[name]) for name, value in adapter(run).items())
    steps = [line["step"] for line in metrics_of(run) if "loss" in line]
    assert steps == [2, 4, 6, 6]  # the lines of the first session stay
    assert json.loads((run / "manifest.json").read_text())["steps"] == STEPS


def test_resume_where_there_is_nothing_starts_afresh(
    lora_run: Path, tmp_path: Path, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    console.forget_notices()
    config = write_config(tmp_path, save_steps=2, eval_steps=3, val_set_size=5, logging_steps=2)
    run = api.train(config, resume=True)
    assert "starting afresh" in capsys.readouterr().err
    assert all(torch.equal(value, adapter(lora_run)[name]) for name, value in adapter(run).items())


def test_a_new_run_in_an_old_folder_does_not_mix_with_it(
    lora_run: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    """Without --resume: the old figures and the old checkpoints are of another run, and are kept apart."""
    run = shutil.copytree(lora_run, tmp_path / "run")
    api.train(write_config(tmp_path, max_steps=2, save_steps=2))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"checkpoint-2"}
    assert {path.name for path in (run / "checkpoints-before").iterdir()} == {f"checkpoint-{n}" for n in (2, 4, 6)}
    assert {line["step"] for line in metrics_of(run)} == {1, 2}
    api.train(write_config(tmp_path, max_steps=3, save_steps=2), resume=True)
    assert json.loads((run / "manifest.json").read_text())["steps"] == 3


def wait_for_steps(process: subprocess.Popen[str], run: Path, count: int) -> None:
    metrics = run / "metrics.jsonl"
    for _ in range(2000):
        if metrics.exists() and metrics.read_text().count("\n") >= count:
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_result(tmp_path: Path, write_config: WriteConfig) -> None:
    """Real processes, a real SIGINT."""
    config = write_config(tmp_path, max_steps=LONG, micro_batch_size=4, save_strategy="no", sample_packing=False)
    whole = start("train", config, "--out", tmp_path / "whole")
    stopped = start("train", config, "--out", tmp_path / "stopped")
    try:
        wait_for_steps(stopped, tmp_path / "stopped", 3)
        stopped.send_signal(signal.SIGINT)
        _, said = stopped.communicate(timeout=100)
        assert stopped.returncode == 130, said
        assert "stopping after this step" in said and "--resume" in said and "Traceback" not in said
        left = newest_complete(tmp_path / "stopped" / "checkpoints")
        assert left is not None and 3 <= int(left.name.rpartition("-")[2]) < LONG

        resumed = start("train", config, "--out", tmp_path / "stopped", "--resume")
        _, said = resumed.communicate(timeout=200)
        assert resumed.returncode == 0, said
        assert f"going on from {left}" in said
        assert whole.wait(timeout=200) == 0
    finally:
        for process in (whole, stopped):
            process.kill()
            process.communicate()
    first, second = adapter(tmp_path / "whole"), adapter(tmp_path / "stopped")
    assert first.keys() == second.keys()
    assert max((first[name] - second[name]).abs().max().item() for name in first) <= 1e-6
    losses = [[line["loss"] for line in metrics_of(tmp_path / n) if "loss" in line] for n in ("whole", "stopped")]
    assert len(losses[0]) == len(losses[1]) == LONG and losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_torch_on_a_full_disk_is_an_output_error() -> None:
    """torch.save does not raise an OSError; what it raises must still be understood."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    for size in (10, 10**6):
        with pytest.raises(console.OutputError, match="full"), console.output_errors("run"):
            torch.save({"state": torch.zeros(size)}, "/dev/full")
