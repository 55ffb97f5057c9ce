"""What a run shows and records, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import TrainerControl

from whet import console
from whet.console import MetricsLog
from whet.train.callbacks import RecordMetrics, ShowProgress, StopOnInterrupt, TokenMeter


@pytest.fixture
def stop():
    """A handler in place, taken away again whatever happens."""
    console.forget_notices()
    before = signal.getsignal(signal.SIGINT)
    found = StopOnInterrupt()
    found.install()
    yield found
    found.remove()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_first_ctrl_c_ends_the_run_after_the_step_with_a_checkpoint(stop, capsys) -> None:
    control = TrainerControl()
    stop.on_step_end(None, None, control)
    assert not control.should_training_stop and not control.should_save
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.interrupted and "stopping after this step" in capsys.readouterr().err
    stop.on_step_end(None, None, control)
    assert control.should_training_stop and control.should_save


def test_the_second_ctrl_c_ends_it_at_once(stop) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_run_in_a_notebook_may_stop_without_a_checkpoint(stop) -> None:
    stop.save = False
    os.kill(os.getpid(), signal.SIGINT)
    control = stop.on_step_end(None, None, TrainerControl())
    assert control.should_training_stop and not control.should_save


def test_outside_the_main_thread_nothing_is_taken_over() -> None:
    before = signal.getsignal(signal.SIGINT)
    errors: list[BaseException] = []

    def other() -> None:
        try:
            found = StopOnInterrupt()
            found.install()
            found.remove()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert errors == [] and signal.getsignal(signal.SIGINT) is before


def test_the_meter_starts_again() -> None:
    meter = TokenMeter()
    meter.add(10, 4)
    meter.add(5, 1)
    assert (meter.tokens, meter.trained) == (15, 5) and meter.per_second() > 0
    meter.start()
    assert (meter.tokens, meter.trained, meter.per_second()) == (0, 0, 0)


def test_each_log_entry_is_one_line(tmp_path: Path) -> None:
    record = RecordMetrics(MetricsLog(tmp_path / "metrics.jsonl"), TokenMeter())
    state = SimpleNamespace(global_step=3)
    record.on_log(None, state, None, logs={"loss": 1.5})
    record.on_log(None, state, None, logs={"loss": float("nan")})
    record.on_log(None, state, None, logs={})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 1.5), (3, None)]
    assert all({"time", "tokens_per_second"} <= line.keys() for line in lines)


def test_progress_counts_the_steps_that_are_left_and_shows_the_loss(capsys) -> None:
    show = ShowProgress(TokenMeter())
    show.on_train_begin(None, SimpleNamespace(max_steps=6, global_step=4), None)
    show.on_log(None, None, None, logs={"loss": 1.25})
    show.on_step_end(None, None, None)
    show.on_step_end(None, None, None)
    show.close()
    show.close()  # after an error it may be closed twice
    said = capsys.readouterr().err
    assert "training: 2/2 steps" in said and "loss=1.250" in said and "tok/s=" in said
