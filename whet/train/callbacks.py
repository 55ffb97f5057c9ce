"""What a run shows and records while it trains, and how Ctrl-C stops it."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from whet.console import MetricsLog, Progress, notice


class ShowProgress(TrainerCallback):
    """A bar with loss, tokens/s and time left."""

    def __init__(self, meter: TokenMeter) -> None:
        self.meter = meter
        self.bar: Progress | None = None
        self.figures: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = Progress("training", state.max_steps - state.global_step, "steps")
        self.bar.__enter__()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.figures["loss"] = logs["loss"]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.bar is not None:
            self.bar.advance(1, **self.figures, **{"tok/s": round(self.meter.per_second())})

    def close(self) -> None:
        """Take the bar off the screen; also after an error."""
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
            self.bar = None


class TokenMeter:
    """Real tokens (padding not counted) that went through training, and the seconds it took."""

    def __init__(self) -> None:
        self.tokens = 0
        self.trained = 0
        self.started = time.monotonic()

    def start(self) -> None:
        """Count from now."""
        self.tokens = self.trained = 0
        self.started = time.monotonic()

    def add(self, tokens: int, trained: int) -> None:
        """One micro-batch."""
        self.tokens += tokens
        self.trained += trained

    def per_second(self) -> float:
        """Tokens per second since the start."""
        return self.tokens / max(time.monotonic() - self.started, 1e-9)


class RecordMetrics(TrainerCallback):
    """One JSON line for each log entry."""

    def __init__(self, log: MetricsLog, meter: TokenMeter) -> None:
        self.log, self.meter = log, meter

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs:
            self.log.write(
                step=state.global_step, tokens_per_second=round(self.meter.per_second(), 1), time=time.time(), **logs
            )


class StopOnInterrupt(TrainerCallback):
    """The first Ctrl-C ends the run after the step that is under way, with a checkpoint; a second one ends it at once.

    Signal handlers belong to the main thread; elsewhere this does nothing.
    """

    def __init__(self, save: bool = True) -> None:
        self.save = save
        self.interrupted = False
        self._before: Any = None

    def install(self) -> None:
        """Take over SIGINT."""
        try:
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        except ValueError:  # not the main thread
            self._before = None

    def remove(self) -> None:
        """Give SIGINT back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        notice("stopping after this step (Ctrl-C again stops at once)")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.interrupted:
            control.should_training_stop = True
            control.should_save = self.save
        return control
